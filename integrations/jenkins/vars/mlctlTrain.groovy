// Generated from mlctl's table of kinds by python -m mlctl_jenkins.library
// train: fits a model and measures it. The arguments are those of the step mlctl.
Map call(Map options = [:]) {
    return mlctl(options + [kind: 'train'])
}

void call(Map options = [:], Object job) {
    String known = 'mlctlTrain(job: \'jobs/train.yaml\'' + (options ? ', ...)' : ')')
    error('mlctlTrain: got ' + job + ' without a name; its arguments have names, such as ' + known)
}
