import io.mlctl.Calls
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * Runs a job, and returns once it has succeeded: a plain map with its outputs and metrics. See mlctl.txt.
 *
 * What a call must remember over a restart of the controller is in its local variables, and in the build's environment:
 * the fields of a step's script would be lost.
 */
Map call(Map options) {
    String request = Calls.encode(options)
    Map mine = Calls.enter(env.MLCTL_CALLS ?: '{}', [env.STAGE_NAME ?: '', options.kind ?: '', options.job ?: ''], request)
    env.MLCTL_CALLS = mine.calls
    boolean returned = false
    try {
        String folder = pwd(tmp: true) + '/mlctl/' + env.BUILD_TAG.hashCode() + '-' + mine.id
        Map told = [
            folder: folder, retry: mine.retry, key: env.BUILD_TAG + '/' + mine.name,
            build: env.BUILD_URL + ' ' + currentBuild.startTimeInMillis,
        ]
        Map result = followed(options, told)
        returned = true
        return result
    } finally {
        env.MLCTL_CALLS = Calls.leave(env.MLCTL_CALLS, mine.group, mine.number, returned)
    }
}

/** The job, run; with the target's credentials, where it has any. */
private Map followed(Map options, Map told) {
    try {
        Map result = asked(options, told)
        if (result.needs) {
            withCredentials(result.needs) {
                result = asked(options, told + [bound: true])
            }
        }
        return concluded(result, told.folder)
    } catch (FlowInterruptedException interrupted) {
        // The step ends its job when it is aborted; this is for one whose process could not, as it was killed.
        try {
            asked(options, told + [cancel: true, bound: true])
        } catch (Exception lost) {
            echo 'mlctl: the job of key ' + told.key + ' may still run: ' + lost.message
        }
        throw interrupted
    }
}

/** One call of the command line: the request in one variable, the answer in one file. */
private Map asked(Map options, Map told) {
    String id = UUID.randomUUID().toString()    // so that no answer of an earlier call is taken for this one's
    String request = Calls.encode([call: told + [id: id], options: options])
    if (request.length() > 120000) {
        error('mlctl: params and inputs take ' + request.length() + ' characters, and at most 120000 fit; put them in a file')
    }
    int code = 0
    withEnv(['MLCTL_STEP=' + request]) {
        code = sh(script: 'mlctl jenkins step', returnStatus: true, label: 'mlctl ' + options.job)
    }
    String file = told.folder + '/result.json'
    Map result = fileExists(file) ? Calls.decode(readFile(file: file, encoding: 'UTF-8')) : [:]
    if (result.id != id) {
        String hint = code == 127 ? 'it is not on this agent: see withMlctl' : 'a retry of the step finds the job, if it started'
        error('mlctl: the command ended with code ' + code + ' and without an answer; ' + hint)
    }
    return result
}

/** The reports and outputs kept, and the build's result set. */
private Map concluded(Map result, String folder) {
    if (result.name) {
        String at = 'mlctl/' + result.name
        dir(folder) {
            archiveArtifacts(artifacts: 'mlctl/**', allowEmptyArchive: true)
            shown { junit(testResults: at + '/junit.xml', skipMarkingBuildUnstable: true) }
            shown {
                publishHTML([
                    reportDir: at, reportFiles: 'report.html', reportName: 'mlctl ' + result.name,
                    keepAll: true, alwaysLinkToLastBuild: false, allowMissing: false,
                ])
            }
        }
    }
    if (result.verdict == 'UNSTABLE') {
        unstable('mlctl: ' + result.error)
    } else if (result.verdict != 'SUCCESS') {
        error('mlctl: ' + result.error)
    }
    return result
}

/** A report, where the controller has the plugin for it; the files are archived anyway. */
private void shown(Closure report) {
    try {
        report()
    } catch (NoSuchMethodError missing) {
        echo 'mlctl: ' + missing.message
    }
}
