/* What the mock replicas answer, byte for byte: the mock writes it, the load generator checks it.
 *
 * Every request carries '#' and eight digits in its prompt. All answers repeat the digits, so bytes
 * that reach the wrong client are found.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NUM_DIGITS 8
#define EVENT_MOST_BYTES 256

static const char USAGE[] =
    "\"usage\":{\"prompt_tokens\":256,\"completion_tokens\":50,\"total_tokens\":306}";

/* One content event of a stream; `index` counts from 0. */
static inline int write_event(char *to, const char *digits, int index) {
    return sprintf(to,
                   "data: {\"id\":\"chatcmpl-%.8s\",\"object\":\"chat.completion.chunk\","
                   "\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,"
                   "\"delta\":{\"content\":\" word%d\"},\"finish_reason\":null}]}\n\n",
                   digits, index);
}

/* The event a client gets only if it asked for usage. */
static inline int write_usage_event(char *to, const char *digits) {
    return sprintf(to,
                   "data: {\"id\":\"chatcmpl-%.8s\",\"object\":\"chat.completion.chunk\","
                   "\"created\":1700000000,\"model\":\"mock\",\"choices\":[],%s}\n\n",
                   digits, USAGE);
}

static const char DONE_EVENT[] = "data: [DONE]\n\n";

/* The body of an answer that is not streamed. */
static inline int write_answer(char *to, const char *digits) {
    return sprintf(to,
                   "{\"id\":\"chatcmpl-%.8s\",\"object\":\"chat.completion\",\"created\":1700000000,"
                   "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                   "\"content\":\"The sum of the list is the total of its items.\"},"
                   "\"finish_reason\":\"stop\"}],%s}",
                   digits, USAGE);
}

static inline int64_t now_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

#endif
