/**
 * Provides mlctl on an agent for the steps inside, from one index and no other; returns what they do. See withMlctl.txt.
 */
Object call(Map options = [:], Closure body) {
    Map asked = [version: '', index: '', wheel: '', extras: '', python: 'python3']
    for (String name in options.keySet()) {
        if (asked[name] == null) {
            error('withMlctl: no argument \'' + name + '\'; there are version, index, wheel, extras, python')
        }
        asked[name] = (options[name] ?: asked[name]).toString()
        if (!asked[name].matches('[-A-Za-z0-9._~:/+%,=]*')) {
            error('withMlctl: ' + name + ': has a character beside letters, digits and -._~:/+%,=')    // and may be a password
        }
    }
    if (!(asked.wheel || (asked.version && asked.index))) {
        error('withMlctl: needs version and index, or wheel; the public index has a stranger of the name')
    }
    String bin = ''
    withEnv([
        'MLCTL_PROVIDE_VERSION=' + asked.version, 'MLCTL_PROVIDE_INDEX=' + asked.index, 'MLCTL_PROVIDE_WHEEL=' + asked.wheel,
        'MLCTL_PROVIDE_EXTRAS=' + asked.extras, 'MLCTL_PROVIDE_PYTHON=' + asked.python,
    ]) {
        String provide = libraryResource('io/mlctl/provide.sh').replace('\r', '')    // of a controller's git on Windows
        bin = sh(script: provide, returnStdout: true, label: 'withMlctl').trim()
    }
    return withEnv(['PATH+MLCTL=' + bin]) {
        body()
    }
}
