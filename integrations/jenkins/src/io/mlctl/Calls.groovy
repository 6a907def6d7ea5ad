package io.mlctl

import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/**
 * Which call of a build is which: text in, text out, so that the build's environment can keep it over a restart.
 *
 * Calls of one job in one stage are numbered. A call takes the first number that nobody has: one that failed gives its
 * number back, so that a retry has it again, and with it the same run; one that returned keeps it. Where calls of one
 * group overlap (branches of `parallel` in one stage, cells of a matrix), a number is given again only to a call that
 * asks for just the same.
 */
class Calls implements Serializable {

    private static final long serialVersionUID = 1

    /** The call's place: `calls` (to keep), `group`, `number`, `name` (unique in the build, stable over retries), `retry`
     * (whether there was a try before). */
    @NonCPS
    static Map enter(String calls, List where, String request) {
        Map state = decode(calls)
        String group = encode([where: where])
        int hash = request.hashCode()
        Map entry = state[group] ?: [mixed: false, slots: []]
        List slots = entry.slots    // of each number: [busy: hash of its request], [free: hash], or null: it returned
        for (Map slot in slots) {
            entry.mixed = entry.mixed || slot?.busy != null
        }
        int number = -1
        for (int i = 0; i < slots.size(); i++) {
            if (number < 0 && slots[i] && slots[i].free == hash) {
                number = i
            }
        }
        for (int i = 0; i < slots.size() && !entry.mixed; i++) {
            if (number < 0 && slots[i] && slots[i].free != null) {
                number = i
            }
        }
        boolean again = number >= 0
        if (again) {
            slots[number] = [busy: hash]
        } else {
            number = slots.size()
            slots.add([busy: hash])
        }
        state[group] = entry
        String name = where[0] + '/' + (where[2] ?: where[1]) + '/' + number
        return [calls: encode(state), group: group, number: number, name: name, retry: again]
    }

    /** What to keep once the call is over. */
    @NonCPS
    static String leave(String calls, String group, int number, boolean returned) {
        Map state = decode(calls)
        List slots = state[group].slots
        slots[number] = returned ? null : [free: slots[number].busy]
        return encode(state)
    }

    /** JSON that a variable can carry: withEnv would replace what looks like one, as in '$HOME'. */
    @NonCPS
    static String encode(Map value) {
        return JsonOutput.toJson(value).replace('$', '\\u0024')
    }

    /** Plain maps and lists, which a restart of the controller keeps. */
    @NonCPS
    static Map decode(String text) {
        return plain(new JsonSlurper().parseText(text))
    }

    @NonCPS
    private static Object plain(Object value) {
        if (value instanceof Map) {
            Map copy = [:]
            for (String name in value.keySet()) {
                copy[name] = plain(value[name])
            }
            return copy
        }
        if (value instanceof List) {
            List copy = []
            for (Object one in value) {
                copy.add(plain(one))
            }
            return copy
        }
        return value
    }

}
