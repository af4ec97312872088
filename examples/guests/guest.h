// What the C guests share: buffered output without printf (which alone would be larger than a guest), and whole-file reading.
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint8_t out_buffer[1 << 16];
static size_t out_used;

static void out_flush(void) {
    for (size_t at = 0; at < out_used;) {
        ssize_t n = write(1, out_buffer + at, out_used - at);
        if (n <= 0) _exit(74);
        at += (size_t)n;
    }
    out_used = 0;
}

static void out_bytes(const void *bytes, size_t len) {
    for (const uint8_t *from = bytes; len > 0;) {
        size_t room = sizeof out_buffer - out_used, n = len < room ? len : room;
        memcpy(out_buffer + out_used, from, n);
        out_used += n, from += n, len -= n;
        if (out_used == sizeof out_buffer) out_flush();
    }
}

static void out_text(const char *text) { out_bytes(text, strlen(text)); }

static void out_number(uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    out_bytes(digits + at, sizeof digits - at);
}

// Ends the program with a message on standard error.
_Noreturn static void fail(int code, const char *what, const char *which) {
    write(2, what, strlen(what));
    write(2, which, strlen(which));
    write(2, "\n", 1);
    out_flush();
    _exit(code);
}

// A decimal number, or the end of the program.
static inline uint64_t number(const char *text) {
    uint64_t value = 0;
    if (*text == 0) fail(64, "not a number: ", text);
    for (const char *at = text; *at; at++) {
        if (*at < '0' || *at > '9' || value > 100000000) fail(64, "not a number: ", text);
        value = value * 10 + (uint64_t)(*at - '0');
    }
    return value;
}

// Everything that a descriptor still has to give.
static inline uint8_t *read_all(int fd, size_t *len) {
    size_t used = 0, room = 1 << 16;
    uint8_t *bytes = malloc(room);
    for (;;) {
        if (bytes == NULL) fail(71, "out of memory", "");
        ssize_t n = read(fd, bytes + used, room - used);
        if (n < 0) fail(74, "cannot read", "");
        if (n == 0) break;
        used += (size_t)n;
        if (used == room) bytes = realloc(bytes, room *= 2);
    }
    *len = used;
    return bytes;
}

#endif
