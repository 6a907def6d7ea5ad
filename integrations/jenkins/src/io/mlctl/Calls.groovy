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

    /** The call's place: `calls` (to keep), `group`, `number`, `name` (unique in the build, stable over retries), `id`
     * (of this try), `retry` (whether there was a try before). */
    @NonCPS
    static Map enter(String calls, List where, String request) {
        Map state = decode(calls)
        String group = encode([where: where])
        int hash = request.hashCode()
        Map entry = state[group] ?: [mixed: false, slots: []]
        List slots = entry.slots
        for (Map slot in slots) {
            entry.mixed = entry.mixed || slot.state == 'busy'
        }
        int number = -1
        for (int i = 0; i < slots.size(); i++) {
            if (slots[i].state == 'free' && slots[i].request == hash) {
                number = i
                break
            }
        }
        for (int i = 0; i < slots.size() && number < 0 && !entry.mixed; i++) {
            number = slots[i].state == 'free' ? i : -1
        }
        boolean again = number >= 0
        if (again) {
            slots[number] = [state: 'busy', request: hash]
        } else {
            number = slots.size()
            slots.add([state: 'busy', request: hash])
        }
        int tries = (state.tries ?: 0) + 1
        state[group] = entry
        state.tries = tries
        String name = where[0] + '/' + (where[2] ?: where[1]) + '/' + number
        return [calls: encode(state), group: group, number: number, name: name, id: tries, retry: again]
    }

    /** What to keep once the call is over. */
    @NonCPS
    static String leave(String calls, String group, int number, boolean returned) {
        Map state = decode(calls)
        state[group].slots[number].state = returned ? 'done' : 'free'
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
