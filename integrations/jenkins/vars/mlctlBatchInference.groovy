// Generated from mlctl's table of kinds by python -m mlctl_jenkins.library
// batch-inference: applies a model to a data set. The arguments are those of the step mlctl.
Map call(Map options = [:]) {
    return mlctl(options + [kind: 'batch-inference'])
}

void call(Map options = [:], Object job) {
    String known = 'mlctlBatchInference(job: \'jobs/batch-inference.yaml\'' + (options ? ', ...)' : ')')
    error('mlctlBatchInference: got ' + job + ' without a name; its arguments have names, such as ' + known)
}
