package harness

import groovy.json.JsonOutput
import groovy.json.JsonSlurperClassic
import hudson.AbortException
import java.nio.file.FileSystems
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.customizers.ImportCustomizer
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * One build of a pipeline, on this machine as its agent.
 *
 * Branches are threads, of which one runs at a time: the others are inside a step, as on a controller. What it doesn't
 * do: translate to continuations, restart, ask script security, run agents elsewhere.
 */
class Build {
    static Build current
    static final List<String> RESULTS = ['SUCCESS', 'UNSTABLE', 'FAILURE', 'NOT_BUILT', 'ABORTED']

    final Map spec
    final File workspace, artifacts
    final Env env = new Env()
    final ReentrantLock turn = new ReentrantLock(true)
    final ThreadLocal<Scope> scope = new InheritableThreadLocal<Scope>()
    final Map<String, Script> vars = [:]
    final List reports = []
    final Scope root
    GroovyShell shell
    String result = 'SUCCESS'

    static void main(String[] args) {
        System.exit(new Build(new JsonSlurperClassic().parse(new File(args[0]))).run())
    }

    Build(Map spec) {
        current = this
        this.spec = spec
        workspace = new File(spec.workspace)
        artifacts = new File(spec.artifacts)
        if (new File(spec.state).exists()) { env.set.putAll(new JsonSlurperClassic().parse(new File(spec.state))) }
        root = new Scope(null, [env: spec.env, dir: workspace])
        scope.set(root)
    }

    int run() {
        Thread.startDaemon {
            System.in.eachLine { line -> if (line == 'abort') { root.interrupt('Aborted by a person') } }
        }
        def config = new CompilerConfiguration(scriptBaseClass: PipelineScript.name)
        config.addCompilationCustomizers(new ImportCustomizer().addStarImports('hudson', 'hudson.model')
            .addImports('com.cloudbees.groovy.cps.NonCPS'), new Guard())
        def loader = new GroovyClassLoader(this.class.classLoader, config)
        loader.addURL(new File(spec.library, 'src').toURI().toURL())
        shell = new GroovyShell(loader, new Binding(), config)
        turn.lock()
        String error = null
        try {
            shell.parse(new File(spec.jenkinsfile)).run()
        } catch (Throwable thrown) {
            note(thrown)
            error = thrown.message
            echo(thrown instanceof AbortException ? "ERROR: ${error}" : "${thrown}")
            if (System.getenv('HARNESS_TRACE')) { thrown.printStackTrace() }
        }
        turn.unlock()
        echo("Finished: ${result}")
        new File(spec.answer).text = JsonOutput.toJson([result: result, error: error, reports: reports, env: env.set])
        return 0
    }

    void note(Throwable thrown) { worse(thrown instanceof FlowInterruptedException ? 'ABORTED' : 'FAILURE') }

    void worse(String than) { result = RESULTS[Math.max(RESULTS.indexOf(result), RESULTS.indexOf(than))] }

    synchronized void echo(Object text) {
        String line = text.toString()
        for (Scope at = scope.get(); at != null; at = at.above) {
            at.secrets.each { line = line.replace(it, '****') }
        }
        System.out.println(line)
        System.out.flush()
    }

    // Where a step runs: variables, folder, secrets, and what may interrupt it.
    static class Scope {
        final Scope above
        final Map<String, String> env
        final List<String> secrets
        final File dir
        volatile int interrupts = 0
        volatile String reason

        Scope(Scope above, Map what) {
            this.above = above
            this.env = what.env ?: [:]
            this.secrets = what.secrets ?: []
            this.dir = what.dir ?: above.dir
        }

        void interrupt(String why) {
            reason = why
            interrupts++
        }

        int epoch() { interrupts + (above ? above.epoch() : 0) }

        String why() { reason ?: above?.why() }
    }

    Object scoped(Map what, Closure body) {
        Scope before = scope.get()
        scope.set(new Scope(before, what))
        try {
            return body.call()
        } finally {
            scope.set(before)
        }
    }

    Map<String, String> variables() {
        List<Scope> chain = []
        for (Scope at = scope.get(); at != null; at = at.above) { chain.add(0, at) }
        Map all = [:] + System.getenv() + chain[0].env + env.set
        for (Scope at in chain.drop(1)) {
            Map now = all.clone()
            at.env.each { name, value ->
                if (name.contains('+')) {
                    String list = name.takeWhile { it != '+' }
                    all[list] = value + (all[list] ? ':' + all[list] : '')
                } else {
                    all[name] = expanded(value, now)
                }
            }
        }
        return all
    }

    /** What EnvVars.overrideExpandingAll does to the values of withEnv: $NAME and ${NAME} of what is known, $$ to $. */
    static String expanded(String value, Map known) {
        value.replaceAll(/\$([A-Za-z0-9_]+|\{[A-Za-z0-9_.]+\}|\$)/) { whole, name ->
            name == '$' ? '$' : known.get(name.startsWith('{') ? name[1..-2] : name) ?: whole
        }
    }

    Object global(String name) {
        switch (name) {
            case 'env': return env
            case 'params': return Collections.unmodifiableMap(spec.params ?: [:])
            case 'currentBuild': return new CurrentBuild()
            case 'scm': return 'scm'
        }
        if (new File(spec.library, "vars/${name}.groovy").exists()) { return var(name) }
        throw new MissingPropertyException(name, Script)
    }

    Script var(String name) {
        if (spec.forgetful) { vars.clear() }    // as after a restart: a fresh script for every call
        if (!vars[name]) {
            vars[name] = shell.parse(new File(spec.library, "vars/${name}.groovy"))
        }
        return vars[name]
    }

    Object step(String name, List args) {
        Guard.step(name)
        args.each { if (!(it instanceof Closure)) { Guard.check("an argument of ${name}", it) } }
        if (new File(spec.library, "vars/${name}.groovy").exists()) { return var(name).invokeMethod('call', args as Object[]) }
        Map known = [sh: this.&sh, echo: { echo(it) }, error: { throw new AbortException(it.toString()) },
            node: { Object... all -> all[-1].call() }, script: { it.call() }, stage: this.&stage, parallel: this.&parallel,
            retry: this.&retry, timeout: this.&timeout, withEnv: this.&withEnv, withCredentials: this.&withCredentials,
            dir: { String at, Closure body -> scoped(dir: file(at), body) }, readFile: this.&readFile,
            deleteDir: { scope.get().dir.deleteDir(); null }, checkout: { scm -> null },
            writeFile: { Map all -> file(all.file).with { parentFile.mkdirs(); setText(all.text, 'UTF-8') } },
            fileExists: { file(it).exists() }, pwd: this.&pwd, archiveArtifacts: this.&archive, junit: this.&junit,
            publishHTML: this.&publish, unstable: { worse('UNSTABLE'); echo("WARNING: ${it}") },
            libraryResource: { new File(spec.library, "resources/${it}").getText('UTF-8') },
            sleep: { seconds -> waited { Thread.sleep((seconds as double) * 1000 as long); null } },
            pipeline: { Closure body -> new Declarative(this, body.owner as Script, '').read(body).perform() }]
        if (!known[name] || name in (spec.without ?: [])) {
            throw new NoSuchMethodError("No such DSL method '${name}' found among steps ${known.keySet().sort()}")
        }
        Object answer = known[name].call(*args)
        Guard.check("what ${name} returned", answer)
        return answer
    }

    /** Lets other branches run meanwhile. */
    Object waited(Closure body) {
        turn.unlock()
        try {
            return body.call()
        } finally {
            turn.lock()
        }
    }

    File file(String path) { path.startsWith('/') ? new File(path) : new File(scope.get().dir, path) }

    Object stage(String name, Closure body) {
        echo("[Pipeline] { (${name})")
        scoped(env: [STAGE_NAME: name], body)
    }

    Object parallel(Map branches) {
        boolean fast = branches.failFast as boolean
        Map failures = Collections.synchronizedMap([:])
        Scope around = new Scope(scope.get(), [:])
        List threads = branches.findAll { it.value instanceof Closure }.collect { name, body ->
            Thread.startDaemon {
                turn.lock()
                scope.set(new Scope(around, [:]))
                try {
                    body.call()
                } catch (Throwable thrown) {
                    failures[name] = thrown
                    if (fast) { around.interrupt("Failed in branch ${name}") }
                } finally {
                    turn.unlock()
                }
            }
        }
        waited { threads*.join(); null }
        if (failures) {
            failures.each { name, thrown -> echo("Failed in branch ${name}: ${thrown.message}") }
            throw failures.values().find { !(it instanceof FlowInterruptedException) } ?: failures.values().first()
        }
        return null
    }

    Object retry(int count, Closure body) {
        for (int left = count; ; left--) {
            try {
                return body.call()
            } catch (FlowInterruptedException interrupted) {
                throw interrupted
            } catch (Throwable thrown) {
                if (left <= 1) { throw thrown }
                echo("ERROR: ${thrown.message}\nRetrying")
            }
        }
    }

    Object timeout(Map what, Closure body) {
        long millis = TimeUnit.valueOf(what.unit ?: 'MINUTES').toMillis(what.time as long)
        Object answer = null
        scoped([:]) {
            Scope here = scope.get()
            Timer timer = new Timer(true)
            timer.schedule(new TimerTask() { void run() { here.interrupt('Timeout has been exceeded') } }, millis)
            try { answer = body.call() } finally { timer.cancel() }
        }
        return answer
    }

    Object withEnv(List all, Closure body) {
        scoped(env: all.collectEntries { String one -> one.split('=', 2) as List }, body)
    }

    Object withCredentials(List all, Closure body) {
        Map bound = [:]
        List secrets = []
        all.each { Map one ->
            Map known = spec.credentials[one.credentialsId]
            if (!known) { throw new AbortException("Could not find credentials entry with ID '${one.credentialsId}'") }
            if (known['$class'] != one['$class']) { throw new AbortException("Credentials '${one.credentialsId}' is of type ${known['$class']}") }
            one.findAll { it.key.endsWith('ariable') }.each { role, name ->
                String value = known[role]
                bound[name] = value
                if (role != 'usernameVariable') { secrets << value }
            }
        }
        // Not withEnv: its values are constants, so nothing in a secret is taken for a variable.
        scoped(env: bound.collectEntries { k, v -> [k, v.replace('$', '$$')] }, secrets: secrets, body)
    }

    String pwd(Map all = [:]) { all.tmp ? scope.get().dir.path + '@tmp' : scope.get().dir.path }

    String readFile(Object what) { file(what instanceof Map ? what.file : what).getText('UTF-8') }

    void archive(Map what) {
        File from = scope.get().dir
        def matches = FileSystems.default.getPathMatcher('glob:' + what.artifacts)
        int count = 0
        if (from.isDirectory()) {
            from.eachFileRecurse { one ->
                def path = from.toPath().relativize(one.toPath())
                if (one.isFile() && matches.matches(path)) {
                    File copy = new File(artifacts, path.toString())
                    copy.parentFile.mkdirs()
                    java.nio.file.Files.copy(one.toPath(), copy.toPath(), java.nio.file.StandardCopyOption.REPLACE_EXISTING)
                    count++
                }
            }
        }
        if (!count && !what.allowEmptyArchive) { throw new AbortException("No artifacts found that match '${what.artifacts}'") }
    }

    void junit(Map what) {
        def suite = new XmlSlurper().parse(file(what.testResults))
        Map seen = [report: 'junit', failures: suite.@failures.text() as int, errors: suite.@errors.text() as int]
        reports << seen
        if (seen.failures + seen.errors > 0 && !what.skipMarkingBuildUnstable) { worse('UNSTABLE') }
    }

    void publish(Map what) {
        reports << [report: 'html', name: what.reportName, text: file("${what.reportDir}/${what.reportFiles}").text]
    }

    Object sh(Object what) {
        Map asked = what instanceof Map ? what : [script: what]
        if (!(asked.script instanceof String)) { throw new IllegalStateException('guard: sh was given interpolated text') }
        String cookie = "durable-${UUID.randomUUID()}"
        File script = File.createTempFile('script', '.sh')
        script.text = asked.script.startsWith('#!') ? asked.script : "#!/bin/sh -xe\n${asked.script}"
        script.executable = true
        List command = asked.script.startsWith('#!') ? [script.path] : ['/bin/sh', '-xe', script.path]
        def builder = new ProcessBuilder(command).directory(scope.get().dir).redirectInput(new File('/dev/null'))
        builder.redirectErrorStream(!asked.returnStdout)
        builder.environment().with { clear(); putAll(variables()); put('JENKINS_SERVER_COOKIE', cookie) }
        scope.get().dir.mkdirs()
        int before = scope.get().epoch()
        StringBuilder out = new StringBuilder()
        Integer code = waited {
            Process process = builder.start()
            event(step: 'sh', pid: process.pid(), label: asked.label, stage: variables().STAGE_NAME)
            def readers = [Thread.startDaemon { process.inputStream.eachLine('UTF-8') { asked.returnStdout ? out.append(it).append('\n') : echo(it) } }]
            if (asked.returnStdout) { readers << Thread.startDaemon { process.errorStream.eachLine('UTF-8') { echo(it) } } }
            boolean stopped = false
            long patience = Long.MAX_VALUE
            while (!process.waitFor(20, TimeUnit.MILLISECONDS)) {
                if (!stopped && scope.get().epoch() != before) {
                    stopped = true
                    echo('Sending interrupt signal to process')
                    killAll(cookie)
                    patience = System.currentTimeMillis() + 20000
                }
                if (System.currentTimeMillis() > patience) { echo('After 20s process did not stop'); break }
            }
            readers*.join(marked(cookie) ? 1000 : 30000)   // to the end, where nothing is left that may yet say something
            event(step: 'ended', pid: process.pid(), code: process.alive ? null : process.exitValue())
            // As Jenkins does: what ends well after the signal was a success, and the pipeline goes on.
            if (stopped && (process.alive || process.exitValue() != 0)) { throw new FlowInterruptedException(scope.get().why()) }
            process.exitValue()
        }
        script.delete()
        if (asked.returnStatus) { return code }
        if (code != 0) { throw new AbortException("script returned exit code ${code}") }
        return asked.returnStdout ? out.toString() : null
    }

    /** SIGTERM to everything that carries the cookie, as the agent's process tree killer does. */
    static void killAll(String cookie) { marked(cookie).each { ['kill', '-TERM', it].execute().waitFor() } }

    /** The processes that carry the cookie. */
    static List<String> marked(String cookie) {
        new File('/proc').list().findAll { pid ->
            try {
                pid.isInteger() && new String(new File("/proc/${pid}/environ").bytes).contains("JENKINS_SERVER_COOKIE=${cookie}".toString())
            } catch (IOException gone) {
                false
            }
        }
    }

    synchronized void event(Map what) { new File(spec.events) << JsonOutput.toJson(what) + '\n' }

    /** `env`: what is set stays with the build, over a restart too; what is read is what a step would see. */
    static class Env implements Serializable {
        final Map<String, String> set = Collections.synchronizedMap([:])

        def getProperty(String name) { name == 'set' ? this.@set : Build.current.variables()[name] }

        void setProperty(String name, Object value) {
            set[name] = value.toString()
            new File(Build.current.spec.state).text = JsonOutput.toJson(set)
        }
    }

    static class CurrentBuild {
        long getStartTimeInMillis() { Build.current.spec.started as long }
        String getResult() { Build.current.result }
        String getCurrentResult() { Build.current.result }
    }
}
