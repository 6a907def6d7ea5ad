// Generated from mlctl's table of kinds by python -m mlctl_jenkins.library
// process: prepares data: reads inputs, writes outputs. The arguments are those of the step mlctl.
Map call(Map options = [:]) {
    return mlctl(options + [kind: 'process'])
}

void call(Map options = [:], Object job) {
    String known = 'mlctlProcess(job: \'jobs/process.yaml\'' + (options ? ', ...)' : ')')
    error('mlctlProcess: got ' + job + ' without a name; its arguments have names, such as ' + known)
}
