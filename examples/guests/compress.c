// compress pack OUT < data      writes the packed form of standard input to the file OUT
// compress unpack IN OUT        writes the unpacked form of the file IN to the file OUT
// Both print "before after" in bytes. The format is a run of tokens: 0..127 = that many plus one literal bytes follow;
// 128..255 = a match of (token - 124) bytes at the 16-bit little-endian distance that follows.
#include "guest.h"
#include <fcntl.h>

enum { SHORTEST = 4, LONGEST = 131, WINDOW = 65535, HEADS = 1 << 15 };

static uint8_t *packed;
static size_t packed_len;

static void literals(const uint8_t *from, size_t len) {
    while (len > 0) {
        size_t n = len < 128 ? len : 128;
        packed[packed_len++] = (uint8_t)(n - 1);
        memcpy(packed + packed_len, from, n);
        packed_len += n, from += n, len -= n;
    }
}

static void pack(const uint8_t *data, size_t len) {
    static uint32_t heads[HEADS]; // position + 1 of the last occurrence of four bytes
    packed = malloc(len + len / 128 + 16);
    if (packed == NULL) fail(71, "out of memory", "");
    size_t from = 0, at = 0;
    while (at + SHORTEST <= len) {
        uint32_t four;
        memcpy(&four, data + at, 4);
        uint32_t *head = &heads[four * 2654435761u >> 17];
        size_t before = *head;
        *head = (uint32_t)at + 1;
        size_t n = 0;
        if (before > 0 && at - --before <= WINDOW)
            while (n < LONGEST && at + n < len && data[before + n] == data[at + n]) n++;
        if (n < SHORTEST) {
            at++;
            continue;
        }
        literals(data + from, at - from);
        size_t distance = at - before;
        packed[packed_len++] = (uint8_t)(n + 124);
        packed[packed_len++] = (uint8_t)distance;
        packed[packed_len++] = (uint8_t)(distance >> 8);
        from = at += n;
    }
    literals(data + from, len - from);
}

static void unpack(const uint8_t *data, size_t len) {
    size_t room = 1 << 16;
    packed = malloc(room);
    for (size_t at = 0; at < len;) {
        if (packed_len + LONGEST > room) packed = realloc(packed, room *= 2);
        if (packed == NULL) fail(71, "out of memory", "");
        uint8_t token = data[at++];
        if (token < 128) {
            size_t n = (size_t)token + 1;
            if (n > len - at) fail(65, "the packed data is damaged", "");
            memcpy(packed + packed_len, data + at, n);
            packed_len += n, at += n;
            continue;
        }
        if (len - at < 2) fail(65, "the packed data is damaged", "");
        size_t distance = data[at] | (size_t)data[at + 1] << 8;
        at += 2;
        if (distance == 0 || distance > packed_len) fail(65, "the packed data is damaged", "");
        for (size_t n = (size_t)token - 124; n > 0; n--, packed_len++) packed[packed_len] = packed[packed_len - distance];
    }
}

int main(int argc, char **argv) {
    int packing = argc == 3 && strcmp(argv[1], "pack") == 0;
    if (!packing && !(argc == 4 && strcmp(argv[1], "unpack") == 0)) fail(64, "usage: compress pack OUT | unpack IN OUT", "");
    int in = packing ? 0 : open(argv[2], O_RDONLY);
    if (in < 0) fail(66, "cannot open ", argv[2]);
    size_t len;
    uint8_t *data = read_all(in, &len);
    if (packing) pack(data, len);
    else unpack(data, len);
    const char *path = argv[argc - 1];
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (out < 0) fail(73, "cannot create ", path);
    for (size_t at = 0; at < packed_len;) {
        ssize_t n = write(out, packed + at, packed_len - at);
        if (n <= 0) fail(74, "cannot write ", path);
        at += (size_t)n;
    }
    close(out);
    out_number(len);
    out_text(" ");
    out_number(packed_len);
    out_text("\n");
    out_flush();
    return 0;
}
