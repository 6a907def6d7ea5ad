package harness

/** What a Jenkinsfile and the scripts of vars/ are: steps, globals and the steps of the library resolve from here. */
abstract class PipelineScript extends Script implements Serializable {

    def methodMissing(String name, args) { Build.current.step(name, args as List) }

    def propertyMissing(String name) { Build.current.global(name) }

    Object invokeMethod(String name, Object args) {
        // A step has its name before Groovy's own methods of every object (sleep) have it.
        if (name in ['sleep', 'dump'] || name == 'print') {
            return Build.current.step(name, args as List)
        }
        return super.invokeMethod(name, args)
    }

    void println(Object text) { Build.current.step('echo', [text.toString()]) }
}
