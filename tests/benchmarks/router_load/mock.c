/* Mock replicas: several OpenAI servers in one process, as cheap as may be.
 *
 *     mock NUM_PORTS NUM_CHUNKS INTERVAL_MILLISECONDS
 *
 * Prints the ports on one line, then serves until it is killed. GET /health and GET /v1/models are
 * answered as vLLM does; a POST whose body says "stream":true is answered by NUM_CHUNKS events, one
 * an interval, any other at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

#define MOST_REQUEST_BYTES (1 << 20)
#define OUT_BYTES 16384

typedef struct Connection {
    int fd;
    bool is_listener, is_streaming, wants_usage, waits_to_write;
    size_t num_in, in_size, num_out, num_sent;
    int next_chunk;
    int64_t due;
    struct Connection *next; /* in the queue of streams, by due time */
    char digits[NUM_DIGITS + 1];
    char *in;
    char out[OUT_BYTES];
} Connection;

static int epoll_fd, num_chunks;
static int64_t interval;
static Connection *first_due, *last_due;

static void flush_out(Connection *c) {
    while (c->num_sent < c->num_out) {
        ssize_t n = send(c->fd, c->out + c->num_sent, c->num_out - c->num_sent, MSG_NOSIGNAL);
        if (n < 0) break;
        c->num_sent += n;
    }
    bool waits = c->num_sent < c->num_out;
    if (!waits) c->num_sent = c->num_out = 0;
    if (waits != c->waits_to_write) {
        struct epoll_event event = {EPOLLIN | (waits ? EPOLLOUT : 0), {.ptr = c}};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
        c->waits_to_write = waits;
    }
}

static void put(Connection *c, const char *bytes, size_t num_bytes) {
    if (c->num_out + num_bytes > OUT_BYTES) {
        fprintf(stderr, "mock: a client does not read\n");
        exit(1);
    }
    memcpy(c->out + c->num_out, bytes, num_bytes);
    c->num_out += num_bytes;
}

static void put_chunk(Connection *c, const char *bytes, int num_bytes) {
    char size[16];
    put(c, size, sprintf(size, "%x\r\n", num_bytes));
    put(c, bytes, num_bytes);
    put(c, "\r\n", 2);
}

static void put_whole(Connection *c, const char *body, int num_bytes) {
    char head[256];
    put(c, head,
        sprintf(head,
                "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: mock\r\n"
                "content-length: %d\r\ncontent-type: application/json\r\n\r\n",
                num_bytes));
    put(c, body, num_bytes);
}

static void wait_turn(Connection *c) {
    c->due = now_nanoseconds() + interval;
    c->next = NULL;
    if (last_due) last_due->next = c;
    else first_due = c;
    last_due = c;
}

static void begin_stream(Connection *c) {
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: mock\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    put(c, HEAD, sizeof HEAD - 1);
    c->is_streaming = true;
    c->next_chunk = 0;
    wait_turn(c);
}

/* Sends the events that are due; a closed connection leaves the queue here, and only here. */
static void advance_streams(void) {
    int64_t now = now_nanoseconds();
    while (first_due && first_due->due <= now) {
        Connection *c = first_due;
        first_due = c->next;
        if (!first_due) last_due = NULL;
        if (c->fd < 0) {
            free(c->in);
            free(c);
            continue;
        }
        char event[EVENT_MOST_BYTES * 2];
        put_chunk(c, event, write_event(event, c->digits, c->next_chunk++));
        if (c->next_chunk < num_chunks) {
            wait_turn(c);
        } else {
            if (c->wants_usage) put_chunk(c, event, write_usage_event(event, c->digits));
            put_chunk(c, DONE_EVENT, sizeof DONE_EVENT - 1);
            put(c, "0\r\n\r\n", 5);
            c->is_streaming = false;
        }
        flush_out(c);
    }
}

static void answer(Connection *c, size_t body_at, size_t num_body) {
    static const char MODELS[] =
        "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\","
        "\"created\":1700000000,\"owned_by\":\"mock\"}]}";
    const char *body = c->in + body_at;
    if (memcmp(c->in, "POST", 4)) {
        bool is_list = memmem(c->in, body_at, " /v1/models", 11) != NULL;
        put_whole(c, is_list ? MODELS : "", is_list ? sizeof MODELS - 1 : 0);
        return;
    }
    const char *digits = memchr(body, '#', num_body);
    if (digits && digits + 1 + NUM_DIGITS <= body + num_body) {
        memcpy(c->digits, digits + 1, NUM_DIGITS);
    } else {
        memset(c->digits, '0', NUM_DIGITS);
    }
    c->wants_usage = memmem(body, num_body, "\"include_usage\":", 16) != NULL;
    if (memmem(body, num_body, "\"stream\":true", 13) || memmem(body, num_body, "\"stream\": true", 14)) {
        begin_stream(c);
        return;
    }
    char text[EVENT_MOST_BYTES * 4];
    put_whole(c, text, write_answer(text, c->digits));
}

/* Returns the bytes of the first whole request and answers it, or 0 if none is whole. */
static size_t take_request(Connection *c) {
    const char *end = memmem(c->in, c->num_in, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t num_head = end - c->in + 4, num_body = 0;
    *(char *)(end + 2) = 0; /* ends the string of the headers */
    const char *length = strcasestr(c->in, "\r\ncontent-length:");
    bool is_chunked = strcasestr(c->in, "\r\ntransfer-encoding:") != NULL;
    *(char *)(end + 2) = '\r';
    if (length) num_body = strtoul(length + 17, NULL, 10);
    if (is_chunked) {
        const char *last = memmem(c->in + num_head, c->num_in - num_head, "\r\n0\r\n\r\n", 7);
        if (!last) return 0;
        num_body = last + 7 - (c->in + num_head);
    }
    if (c->num_in < num_head + num_body) return 0;
    answer(c, num_head, num_body);
    return num_head + num_body;
}

static void close_connection(Connection *c) {
    close(c->fd);
    c->fd = -1;
    if (c->is_streaming) return; /* still queued */
    free(c->in);
    free(c);
}

static void read_in(Connection *c) {
    if (c->num_in == c->in_size) {
        c->in_size *= 2;
        if (c->in_size > MOST_REQUEST_BYTES || !(c->in = realloc(c->in, c->in_size))) exit(1);
    }
    ssize_t n = recv(c->fd, c->in + c->num_in, c->in_size - c->num_in, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        close_connection(c);
        return;
    }
    c->num_in += n;
    size_t taken;
    while (!c->is_streaming && c->num_in && (taken = take_request(c))) {
        c->num_in -= taken;
        memmove(c->in, c->in + taken, c->num_in);
    }
    flush_out(c);
}

static void add(int fd, bool is_listener) {
    Connection *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    c->fd = fd;
    c->is_listener = is_listener;
    c->in_size = 4096;
    c->in = malloc(c->in_size);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        add(fd, false);
    }
}

static void listen_on_free_port(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    if (bind(fd, (void *)&address, size) || listen(fd, 4096)) die("listen");
    getsockname(fd, (void *)&address, &size);
    printf(" %d", ntohs(address.sin_port));
    add(fd, true);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    num_chunks = atoi(argv[2]);
    interval = atoll(argv[3]) * 1000000;
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    printf("ports");
    for (int i = 0; i < atoi(argv[1]); i++) listen_on_free_port();
    printf("\n");
    fflush(stdout);
    struct epoll_event events[512];
    for (;;) {
        int64_t wait = first_due ? first_due->due - now_nanoseconds() : -1;
        int milliseconds = wait < 0 ? (first_due ? 0 : -1) : (int)(wait / 1000000 + 1);
        int n = epoll_wait(epoll_fd, events, 512, milliseconds);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (c->is_listener) accept_all(c->fd);
            else if (events[i].events & EPOLLIN || !(events[i].events & EPOLLOUT)) read_in(c);
            else flush_out(c);
        }
        advance_streams();
    }
}
