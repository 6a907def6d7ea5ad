// What CodeNarc looks for in the library, and in the pipelines of the examples and the pages.
ruleset {
    ruleset('rulesets/jenkins.xml') {
        for (name in ['ClassNotSerializable', 'ClosureInGString', 'CpsCallFromNonCpsMethod', 'ExpressionInCpsMethodNotSerializable',
                      'ForbiddenCallInCpsMethod', 'ObjectOverrideOnlyNonCpsMethods', 'ParameterOrReturnTypeNotSerializable']) {
            "${name}" { applyToFileNames = '*' }     // most look at files called Jenkinsfile only, unless told otherwise
        }
    }
    ruleset('rulesets/basic.xml')
    ruleset('rulesets/braces.xml')
    ruleset('rulesets/concurrency.xml') {
        NoScriptBindings { doNotApplyToFileNames = 'Jenkinsfile' }     // how a stage hands on a result
    }
    ruleset('rulesets/exceptions.xml') {
        exclude 'CatchException'                     // whatever ends a step has no closer name in common
    }
    ruleset('rulesets/formatting.xml') {
        SpaceAroundMapEntryColon { characterAfterColonRegex = /\s/ }
        LineLength { length = 130 }
    }
    ruleset('rulesets/groovyism.xml')
    ruleset('rulesets/imports.xml')
    ruleset('rulesets/naming.xml') {
        VariableName { ignoreVariableNames = '_' }   // what @Library stands on
    }
    ruleset('rulesets/security.xml')
    ruleset('rulesets/serialization.xml')
    ruleset('rulesets/unnecessary.xml') {
        exclude 'UnnecessaryReturnKeyword'           // said, not implied; and the sandbox knows toString, but no such cast
        exclude 'UnnecessaryToString'
    }
    ruleset('rulesets/unused.xml') {
        UnusedVariable { ignoreVariableNames = '_' }
    }
}
