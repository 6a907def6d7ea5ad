package harness

import com.cloudbees.groovy.cps.NonCPS
import groovy.transform.CompileStatic
import org.codehaus.groovy.ast.ClassCodeExpressionTransformer
import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.MethodNode
import org.codehaus.groovy.ast.expr.*
import org.codehaus.groovy.ast.stmt.BlockStatement
import org.codehaus.groovy.ast.stmt.ExpressionStatement
import org.codehaus.groovy.ast.stmt.TryCatchStatement
import org.codehaus.groovy.classgen.GeneratorContext
import org.codehaus.groovy.control.CompilePhase
import org.codehaus.groovy.control.SourceUnit
import org.codehaus.groovy.control.customizers.CompilationCustomizer

/**
 * What Jenkins' CPS translation asks of a pipeline's code, told at once instead of at some restart.
 *
 * Stricter than Jenkins: every value that a local variable of translated code ever holds must be serializable, not only
 * one that is alive across a step. Methods marked NonCPS are free of that, and may run no step.
 */
class Guard extends CompilationCustomizer {

    /** Methods of Groovy that take a closure, and that the translation doesn't know. */
    static final Set<String> UNTRANSLATED = ['sort', 'toSorted', 'unique', 'toUnique', 'eachLine', 'splitEachLine', 'withReader',
        'eachFile', 'replaceAll', 'max', 'min', 'eachMatch', 'withWriter', 'eachDir', 'asType'] as Set
    static final ThreadLocal<Integer> UNTRANSLATED_DEPTH = ThreadLocal.withInitial { 0 }

    Guard() { super(CompilePhase.CANONICALIZATION) }

    void call(SourceUnit source, GeneratorContext context, ClassNode type) {
        for (MethodNode method in new ArrayList(type.methods)) {
            if (!(method.code instanceof BlockStatement)) {
                continue
            }
            if (method.annotations.any { it.classNode.name == NonCPS.name }) {
                def enter = new ExpressionStatement(hook('enter'))
                def tried = new TryCatchStatement(method.code, new ExpressionStatement(hook('leave')))
                method.code = new BlockStatement([enter, tried], method.variableScope)
            } else {
                new Rewriter(source).visitMethod(method)
            }
        }
    }

    static Expression hook(String name, Expression... args) {
        new StaticMethodCallExpression(new ClassNode(Guard), name, new ArgumentListExpression(args))
    }

    static void enter() { UNTRANSLATED_DEPTH.set(UNTRANSLATED_DEPTH.get() + 1) }

    static void leave() { UNTRANSLATED_DEPTH.set(UNTRANSLATED_DEPTH.get() - 1) }

    static void step(String name) {
        if (UNTRANSLATED_DEPTH.get() > 0) {
            throw new IllegalStateException("guard: the step ${name} runs inside a NonCPS method")
        }
    }

    static Object value(String name, Object value) {
        check(name, value)
        return value
    }

    static void check(String name, Object value) {
        try {
            new Stream().writeObject(value)
        } catch (NotSerializableException error) {
            throw new IllegalStateException("guard: ${name} holds a ${error.message}, which no restart would keep")
        }
    }

    @CompileStatic
    static class Stream extends ObjectOutputStream {
        Stream() {
            super(new ByteArrayOutputStream())
            enableReplaceObject(true)
        }

        // Scripts, closures of them and the globals are what Jenkins itself makes serializable.
        protected Object replaceObject(Object value) {
            value instanceof Closure || value instanceof Script || value.class.name.startsWith('harness.') ? null : value
        }
    }

    static class Rewriter extends ClassCodeExpressionTransformer {
        final SourceUnit source

        Rewriter(SourceUnit source) { this.source = source }

        SourceUnit getSourceUnit() { source }

        Expression transform(Expression expression) {
            if (expression instanceof ClosureExpression) {
                expression.code.visit(this)
                return expression
            }
            if (expression instanceof MethodCallExpression && UNTRANSLATED.contains(expression.methodAsString)
                    && expression.arguments.expressions.any { it instanceof ClosureExpression }) {
                addError("guard: ${expression.methodAsString} takes a closure, and Jenkins can't translate it", expression)
            }
            if (expression instanceof BinaryExpression && expression.operation.text == '='
                    && !(expression.rightExpression instanceof EmptyExpression)) {
                String name = expression.leftExpression.text
                def right = hook('value', new ConstantExpression(name), transform(expression.rightExpression))
                right.sourcePosition = expression.rightExpression
                if (expression instanceof DeclarationExpression) {
                    def made = new DeclarationExpression(expression.leftExpression, expression.operation, right)
                    made.sourcePosition = expression
                    made.addAnnotations(expression.annotations)
                    return made
                }
                def made = new BinaryExpression(transform(expression.leftExpression), expression.operation, right)
                made.sourcePosition = expression
                return made
            }
            return super.transform(expression)
        }
    }
}
