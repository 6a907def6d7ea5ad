package harness

/** `pipeline { ... }`: sections, each closure with the script as its owner. */
class Declarative {
    final Build build
    final Script script
    Map environment = [:]
    Map options = [:]
    List stages = []
    Map post = [:]
    Closure steps, parallel, when
    boolean failFast
    String name

    Declarative(Build build, Script script, String name) {
        this.build = build
        this.script = script
        this.name = name
    }

    Declarative read(Closure body) {
        Closure own = body.rehydrate(this, script, script)
        own.resolveStrategy = Closure.DELEGATE_FIRST
        own.call()
        return this
    }

    def getAny() { 'any' }
    def getNone() { 'none' }
    void agent(Object any) { }
    void parameters(Closure body) { }
    void failFast(boolean on) { failFast = on }
    void steps(Closure body) { steps = body }
    void when(Closure body) { when = body }
    void stages(Closure body) { stages = collected(body) }
    void parallel(Closure body) { parallel = body }
    void environment(Closure body) { with(body, new Expando(), environment) }
    void options(Closure body) { with(body, new Named(options), null) }
    void post(Closure body) { with(body, new Named(post), null) }

    private void with(Closure body, Object delegate, Map into) {
        Closure own = body.rehydrate(delegate, script, script)
        own.resolveStrategy = Closure.DELEGATE_FIRST
        own.call()
        if (into != null) { into.putAll(delegate.properties) }
    }

    private List collected(Closure body) {
        List found = []
        def delegate = new Object() {
            void stage(String title, Closure one) { found << new Declarative(build, script, title).read(one) }
        }
        with(body, delegate, null)
        return found
    }

    private Object inScript(Closure body) {
        Closure own = body.rehydrate(script, script, script)
        return own.call()
    }

    Object perform() {
        build.scoped(env: environment.collectEntries { k, v -> [k, v.toString()] }) {
            def limit = options.timeout ? options.timeout[0] : null
            Closure all = { inOrder() }
            limit ? build.step('timeout', [limit, all]) : all()
        }
    }

    private void inOrder() {
        Throwable failure = null
        try {
            if (parallel) {
                Map branches = collected(parallel).collectEntries { one -> [one.name, { one.staged() }] }
                build.step('parallel', [branches + (failFast ? [failFast: true] : [:])])
            }
            if (steps) { inScript(steps) }
            stages.each { it.staged() }
        } catch (Throwable thrown) {
            failure = thrown
            build.note(thrown)
        }
        (['always'] + (failure ? ['failure'] : ['success'])).each { if (post[it]) { inScript(post[it][0]) } }
        if (failure) { throw failure }
    }

    void staged() { build.step('stage', [name, { perform() }]) }
}

/** A section whose entries are calls, such as options and post. */
class Named {
    final Map found
    Named(Map found) { this.found = found }
    def methodMissing(String name, args) { found[name] = args as List }
}
