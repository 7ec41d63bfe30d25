/* A load generator for one HTTP/1.1 server on loopback that checks every answer.
 *
 *     load open    PORT CONNECTIONS SECONDS RATE       REQUEST   arrivals at a fixed rate (Poisson)
 *     load closed  PORT CONNECTIONS SECONDS 0          REQUEST   each connection sends without pause
 *     load streams PORT CONNECTIONS SECONDS NUM_CHUNKS REQUEST   one stream a connection
 *
 * REQUEST is a file: a whole request whose body holds '#00000000'; the digits are replaced by the
 * request's number. With the environment variable LOOSE an answer needs status 200 and the digits;
 * else every byte of its body must be the mock's. In mode `open` latency counts from the moment a
 * request is due, also while it waits for a connection. In mode `streams` SECONDS is the time over
 * which the streams begin; the line `all_open` is printed once every stream has had its first
 * chunk and none its last. The last line is JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

#define IN_BYTES 65536
#define MOST_LATENCIES 4000000
#define GRACE_NANOSECONDS 30000000000

enum { IDLE, SENT, HEAD_READ };

typedef struct {
    int fd, state, status;
    bool is_chunked, closes, was_first_byte;
    size_t num_in, num_body, body_bytes, expected_bytes;
    int64_t due;
    char digits[NUM_DIGITS + 1];
    char *in, *body, *expected;
} Connection;

static struct {
    int64_t done, bad_status, bad_bytes, broken, connects, first_bytes;
} count;

static int epoll_fd, port, num_connections, num_chunks;
static bool is_loose, has_ended;
static char *request;
static size_t request_bytes, digits_at;
static int64_t next_number = 1;
static Connection *connections, **idle;
static int num_idle, num_open, most_open;
static float *latencies;
static size_t num_latencies;

static void open_connection(Connection *c) {
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&to, sizeof to)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    count.connects++;
}

static void expect(Connection *c) {
    char *to = c->expected;
    if (num_chunks) {
        for (int i = 0; i < num_chunks; i++) to += write_event(to, c->digits, i);
        to += sprintf(to, "%s", DONE_EVENT);
    } else {
        to += write_answer(to, c->digits);
    }
    c->expected_bytes = to - c->expected;
}

static void send_request(Connection *c, int64_t due) {
    char text[32];
    snprintf(text, sizeof text, "%08lld", (long long)(next_number++ % 100000000));
    memcpy(c->digits, text, NUM_DIGITS);
    memcpy(request + digits_at, text, NUM_DIGITS);
    expect(c);
    c->due = due;
    c->state = SENT;
    c->num_in = c->num_body = 0;
    c->was_first_byte = false;
    /* A kilobyte always fits into an empty socket buffer. */
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes) {
        count.broken++;
        shutdown(c->fd, SHUT_RDWR);
    }
}

static void become_idle(Connection *c) {
    c->state = IDLE;
    idle[num_idle++] = c;
}

static void begin_again(Connection *c) {
    close(c->fd);
    open_connection(c);
    become_idle(c);
}

static void finish(Connection *c, bool is_whole) {
    bool is_right = is_loose ? memmem(c->body, c->num_body, c->digits, NUM_DIGITS) != NULL
                             : c->num_body == c->expected_bytes &&
                                   !memcmp(c->body, c->expected, c->expected_bytes);
    if (!is_whole) count.broken++;
    else if (c->status != 200) count.bad_status++;
    else if (!is_right) count.bad_bytes++;
    else {
        count.done++;
        if (num_latencies < MOST_LATENCIES)
            latencies[num_latencies++] = (now_nanoseconds() - c->due) * 1e-9;
    }
    if (is_whole && (c->status != 200 || !is_right) && count.bad_status + count.bad_bytes < 3)
        fprintf(stderr, "load: status=%d body=%.*s\n", c->status, (int)c->num_body, c->body);
    if (num_chunks) {
        num_open -= c->was_first_byte;
        has_ended = true;
    }
    if (!is_whole || c->closes) begin_again(c);
    else become_idle(c);
}

/* Reads the head where it is whole; returns its bytes or 0. */
static size_t read_head(Connection *c) {
    char *end = memmem(c->in, c->num_in, "\r\n\r\n", 4);
    if (!end) return 0;
    end[2] = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    c->status = atoi(c->in + 9);
    c->is_chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != NULL;
    c->closes = strcasestr(c->in, "\r\nconnection: close") != NULL;
    c->body_bytes = length ? strtoul(length + 17, NULL, 10) : 0;
    return end + 4 - c->in;
}

static void take_body(Connection *c, const char *bytes, size_t num_bytes) {
    if (c->num_body + num_bytes > IN_BYTES) num_bytes = IN_BYTES - c->num_body;
    memcpy(c->body + c->num_body, bytes, num_bytes);
    c->num_body += num_bytes;
    if (!c->was_first_byte && num_bytes) {
        c->was_first_byte = true;
        count.first_bytes++;
        if (num_chunks && ++num_open > most_open) most_open = num_open;
    }
}

/* Takes what is whole of the body; returns the bytes taken and whether the answer is complete. */
static size_t read_body(Connection *c, const char *in, size_t num_in, bool *is_complete) {
    if (!c->is_chunked) {
        size_t left = c->body_bytes - c->num_body;
        size_t taken = num_in < left ? num_in : left;
        take_body(c, in, taken);
        *is_complete = c->num_body == c->body_bytes;
        return taken;
    }
    size_t taken = 0;
    for (;;) {
        const char *line = in + taken;
        const char *end = memmem(line, num_in - taken, "\r\n", 2);
        if (!end) return taken;
        size_t size = strtoul(line, NULL, 16);
        size_t whole = end + 2 - line + size + 2;
        if (num_in - taken < whole) return taken;
        take_body(c, end + 2, size);
        taken += whole;
        if (!size) {
            *is_complete = true;
            return taken;
        }
    }
}

static void on_readable(Connection *c) {
    ssize_t n = recv(c->fd, c->in + c->num_in, IN_BYTES - c->num_in, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        if (c->state != IDLE) {
            finish(c, false);
            return;
        }
        close(c->fd); /* a kept connection was closed: open another in its place */
        open_connection(c);
        return;
    }
    c->num_in += n;
    size_t taken = 0;
    bool is_complete = false;
    if (c->state == SENT && (taken = read_head(c))) c->state = HEAD_READ;
    if (c->state == HEAD_READ) taken += read_body(c, c->in + taken, c->num_in - taken, &is_complete);
    c->num_in -= taken;
    memmove(c->in, c->in + taken, c->num_in);
    if (is_complete) finish(c, true);
}

static void turn(int64_t wait_nanoseconds) {
    struct epoll_event events[256];
    if (wait_nanoseconds < 0) wait_nanoseconds = 0;
    struct timespec wait = {wait_nanoseconds / 1000000000, wait_nanoseconds % 1000000000};
    int n = epoll_pwait2(epoll_fd, events, 256, &wait, NULL);
    for (int i = 0; i < n; i++) on_readable(events[i].data.ptr);
}

static double gap_seconds(double rate) {
    static uint64_t state = 88172645463325252ULL; /* xorshift, always the same arrivals */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return -log(((state >> 11) + 1) / 9007199254740993.0) / rate;
}

static int64_t drain_until(int64_t deadline) {
    while (num_idle < num_connections && now_nanoseconds() < deadline) turn(10000000);
    return num_connections - num_idle;
}

static int64_t run_open(double rate, double seconds) {
    int64_t start = now_nanoseconds(), end = start + seconds * 1e9;
    double due = start;
    while (due < end) {
        int64_t now = now_nanoseconds();
        if (due > now || !num_idle) {
            turn(due > now ? due - now : 10000000);
            continue;
        }
        send_request(idle[--num_idle], due);
        due += gap_seconds(rate) * 1e9;
    }
    return drain_until(end + GRACE_NANOSECONDS);
}

static int64_t run_closed(double seconds) {
    int64_t end = now_nanoseconds() + seconds * 1e9;
    while (now_nanoseconds() < end) {
        while (num_idle) send_request(idle[--num_idle], now_nanoseconds());
        turn(10000000);
    }
    return drain_until(end + GRACE_NANOSECONDS);
}

static int64_t run_streams(double seconds) {
    int64_t start = now_nanoseconds(), gap = seconds * 1e9 / num_connections;
    bool is_told = false;
    for (int i = 0; i < num_connections;) {
        int64_t wait = start + i * gap - now_nanoseconds();
        if (wait > 0) turn(wait);
        else send_request(&connections[i++], now_nanoseconds());
    }
    while (num_idle < num_connections) {
        if (!is_told && num_open == num_connections && !has_ended) {
            is_told = true;
            printf("all_open\n");
            fflush(stdout);
        }
        if (now_nanoseconds() > start + seconds * 1e9 + 10 * GRACE_NANOSECONDS) break;
        turn(10000000);
    }
    return num_connections - num_idle;
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    request = malloc(1 << 20);
    request_bytes = fread(request, 1, 1 << 20, file);
    fclose(file);
    char *mark = memmem(request, request_bytes, "#00000000", 9);
    if (!mark) {
        fprintf(stderr, "%s holds no '#00000000'\n", path);
        exit(2);
    }
    digits_at = mark + 1 - request;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(double fraction) {
    return num_latencies ? latencies[(size_t)(fraction * (num_latencies - 1))] : 0;
}

static void report(double seconds, int64_t left) {
    qsort(latencies, num_latencies, sizeof *latencies, compare);
    printf("{\"done\": %lld, \"bad_status\": %lld, \"bad_bytes\": %lld, \"broken\": %lld, "
           "\"unanswered\": %lld, \"connects\": %lld, \"most_open\": %d, \"seconds\": %.4f, "
           "\"p50_seconds\": %.7f, \"p90_seconds\": %.7f, \"p99_seconds\": %.7f, "
           "\"p999_seconds\": %.7f, \"max_seconds\": %.7f}\n",
           (long long)count.done, (long long)count.bad_status, (long long)count.bad_bytes,
           (long long)count.broken, (long long)left, (long long)count.connects, most_open, seconds,
           quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999), quantile(1));
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    port = atoi(argv[2]);
    num_connections = atoi(argv[3]);
    double seconds = atof(argv[4]), rate = atof(argv[5]);
    bool is_streams = !strcmp(argv[1], "streams");
    if (is_streams) num_chunks = rate;
    is_loose = getenv("LOOSE") != NULL;
    read_request(argv[6]);
    epoll_fd = epoll_create1(0);
    connections = calloc(num_connections, sizeof *connections);
    idle = calloc(num_connections, sizeof *idle);
    latencies = malloc(MOST_LATENCIES * sizeof *latencies);
    for (int i = 0; i < num_connections; i++) {
        Connection *c = &connections[i];
        c->in = malloc(IN_BYTES);
        c->body = malloc(IN_BYTES);
        c->expected = malloc(num_chunks ? num_chunks * EVENT_MOST_BYTES + 64 : 4096);
        open_connection(c);
        become_idle(c);
    }
    if (is_streams) num_idle = 0; /* a stream becomes idle at its end */
    int64_t start = now_nanoseconds();
    int64_t left = is_streams                   ? run_streams(seconds)
                   : !strcmp(argv[1], "closed") ? run_closed(seconds)
                                                : run_open(rate, seconds);
    report((now_nanoseconds() - start) * 1e-9, left);
    return 0;
}
