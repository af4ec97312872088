// lattice ROWS COLUMNS: in how many ways a grid can be crossed from corner to corner, by steps right and down.
//
// A program that asks: each grid asks for the two that are one smaller. Without memory that would be millions of questions; here each grid is
// asked for once, by whichever node, and its answer is everybody's. Needs the capability `eval`.
#include "evalmesh.h"
#include "guest.h"

static void argument(uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    if (evalmesh_argument(digits + at, sizeof digits - at)) fail(70, "an argument was refused", "");
}

static uint64_t ask(uint64_t rows, uint64_t columns) {
    uint32_t reply, read;
    struct evalmesh_status status;
    char text[24] = {0};
    evalmesh_program_self();
    argument(rows), argument(columns);
    evalmesh_capability("eval", 4);
    if (evalmesh_ask(&reply) || evalmesh_status(reply, &status)) fail(70, "the question was refused", "");
    if (status.kind != 0 || status.code != 0) fail(70, "the smaller grid has no answer", "");
    if (evalmesh_output_read(reply, "", 0, 0, text, sizeof text - 1, &read) || read == 0) fail(70, "no output", "");
    text[read - 1] = 0; // the line's end
    uint64_t ways = 0;
    for (const char *at = text; *at; at++) ways = ways * 10 + (uint64_t)(*at - '0');
    return ways;
}

int main(int argc, char **argv) {
    if (argc != 3) fail(64, "usage: lattice ROWS COLUMNS", "");
    uint64_t rows = number(argv[1]), columns = number(argv[2]);
    uint64_t ways = rows == 0 || columns == 0 ? 1 : ask(rows - 1, columns) + ask(rows, columns - 1);
    out_number(ways);
    out_text("\n");
    out_flush();
    return 0;
}
