import io.mlctl.Calls
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * Runs a job, and returns once it has succeeded: a plain map with its outputs and metrics. See mlctl.txt.
 *
 * What a call must remember over a restart of the controller is in its local variables, and in the build's environment:
 * the fields of a step's script would be lost.
 */
Map call(Map options = [:]) {
    String request = Calls.encode(options)
    Map mine = Calls.enter(env.MLCTL_CALLS ?: '{}', [env.STAGE_NAME ?: '', options.kind ?: '', options.job ?: ''], request)
    env.MLCTL_CALLS = mine.calls
    // A build is its tag and its start: jobs of different folders may share a tag, and a job made anew has its old ones.
    String key = env.BUILD_TAG + '@' + currentBuild.startTimeInMillis + '/' + mine.name
    boolean returned = false
    try {
        Map answer = followed(options, [key: key, retry: mine.retry])
        conclude(answer)
        returned = true
        return answer.result
    } finally {
        env.MLCTL_CALLS = Calls.leave(env.MLCTL_CALLS, mine.group, mine.number, returned)
    }
}

void call(Map options = [:], Object job) {
    String known = 'mlctl(job: \'jobs/train.yaml\'' + (options ? ', ...)' : ')')
    error('mlctl: got ' + job + ' without a name; its arguments have names, such as ' + known)
}

/** The job, followed to its end; cancelled where the build, or what the step stands in, is aborted. */
private Map followed(Map options, Map told) {
    try {
        return answered(options, told)
    } catch (FlowInterruptedException interrupted) {
        // The step ends its job when it is aborted; this is for one whose process could not, as it was killed.
        try {
            conclude(answered(options, told + [cancel: true]))
        } catch (Exception lost) {
            echo 'mlctl: the job of key ' + told.key + ' may still run: ' + lost.message
        }
        throw interrupted
    }
}

/** The command line's answer; with the target's credentials, where it has any. */
private Map answered(Map options, Map told) {
    Map answer = asked(options, told)
    if (answer.needs) {
        withCredentials(answer.needs) {
            answer = asked(options, told + [bound: true])
        }
    }
    return answer
}

/** One call of the command line: the request in one variable, the answer in one file, in a folder of this call alone. */
private Map asked(Map options, Map told) {
    String folder = pwd(tmp: true) + '/mlctl/' + UUID.randomUUID().toString()
    String request = Calls.encode([call: told + [folder: folder], options: options])
    if (request.length() > 120000) {
        error('mlctl: params and inputs take ' + request.length() + ' characters, and at most 120000 fit; put them in a file')
    }
    int code = 0
    withEnv(['MLCTL_STEP=' + request]) {
        // The trap keeps the shell from dying of the abort that the command is busy with: its end is awaited.
        code = sh(script: 'trap : TERM; mlctl jenkins step', returnStatus: true, label: 'mlctl ' + options.job)
    }
    String file = folder + '/answer.json'
    if (!fileExists(file)) {
        String hint = code == 127 ? 'it is not on this agent: see withMlctl' : 'a retry of the step finds the job, if it started'
        error('mlctl: the command ended with code ' + code + ' and without an answer; ' + hint)
    }
    return Calls.decode(readFile(file: file, encoding: 'UTF-8')) + [folder: folder]
}

/** The reports and outputs kept, and the build's result set. */
private void conclude(Map answer) {
    dir(answer.folder) {
        if (answer.name) {
            String at = 'mlctl/' + answer.name
            archiveArtifacts(artifacts: 'mlctl/**', allowEmptyArchive: true)
            shown { junit(testResults: at + '/junit.xml', skipMarkingBuildUnstable: true) }
            shown {
                publishHTML([
                    reportDir: at, reportFiles: 'report.html', reportName: 'mlctl ' + answer.name,
                    keepAll: true, alwaysLinkToLastBuild: false, allowMissing: false,
                ])
            }
        }
        deleteDir()
    }
    if (answer.verdict == 'UNSTABLE') {
        unstable('mlctl: ' + answer.error)
    } else if (answer.verdict != 'SUCCESS') {
        error('mlctl: ' + answer.error)
    }
}

/** A report, where the controller has the plugin for it; the files are archived anyway. */
private void shown(Closure report) {
    try {
        report()
    } catch (NoSuchMethodError missing) {
        echo 'mlctl: ' + missing.message
    }
}
