// wordfreq N < text: the N most frequent words, one "count word" per line.
// A word is a run of ASCII letters, in lower case. The most frequent come first, equally frequent ones in order of the words.
#include "guest.h"

typedef struct {
    const uint8_t *word;
    size_t len;
    uint64_t count;
} Entry;

static Entry *table;
static size_t slots, used;

static uint64_t hash(const uint8_t *word, size_t len) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++) h = (h ^ word[i]) * 1099511628211u;
    return h ^ h >> 32;
}

static Entry *find(const uint8_t *word, size_t len) {
    size_t at = hash(word, len) & (slots - 1);
    while (table[at].count > 0 && (table[at].len != len || memcmp(table[at].word, word, len) != 0)) at = (at + 1) & (slots - 1);
    return &table[at];
}

static void grow(void) {
    Entry *old = table;
    size_t old_slots = slots;
    slots = slots ? slots * 2 : 1024;
    table = calloc(slots, sizeof *table);
    if (table == NULL) fail(71, "out of memory", "");
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].count > 0) *find(old[i].word, old[i].len) = old[i];
    free(old);
}

static void count(const uint8_t *word, size_t len) {
    if (used * 2 >= slots) grow();
    Entry *entry = find(word, len);
    if (entry->count++ == 0) entry->word = word, entry->len = len, used++;
}

static int order(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    int c = memcmp(x->word, y->word, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

int main(int argc, char **argv) {
    if (argc != 2) fail(64, "usage: wordfreq N < text", "");
    uint64_t wanted = number(argv[1]);
    size_t len, from = 0;
    uint8_t *text = read_all(0, &len);
    for (size_t i = 0; i <= len; i++) {
        uint8_t letter = i < len ? text[i] | 0x20 : 0;
        if (letter >= 'a' && letter <= 'z') {
            text[i] = letter;
            continue;
        }
        if (i > from) count(text + from, i - from);
        from = i + 1;
    }
    size_t words = 0;
    for (size_t i = 0; i < slots; i++)
        if (table[i].count > 0) table[words++] = table[i];
    qsort(table, words, sizeof *table, order);
    for (size_t i = 0; i < words && i < wanted; i++) {
        out_number(table[i].count);
        out_text(" ");
        out_bytes(table[i].word, table[i].len);
        out_text("\n");
    }
    out_flush();
    return 0;
}
