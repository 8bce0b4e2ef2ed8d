/* Damaged JPEGs and wild boxes for `preprocessing/_jpeg.c`, built with the sanitizers of the compiler.
 *
 *     jpeg_under_fire TIMES SEED FILE...
 *
 * Every buffer has the size that was asked for, to the byte: a sanitizer ends the process at the
 * first access beside one. Prints how many views were decoded and how many were refused.
 */
#include <stdio.h>
#include <stdlib.h>

#include "_jpeg.c"

#define MOST_BYTES (1 << 20)
#define MOST_ROOM (1L << 28)

static uint64_t state = 88172645463325252ull;

static uint64_t draw(uint64_t below) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void damage(uint8_t *data, size_t size) {
    for (int left = (int)draw(8); left && size; left--) {
        size_t at = draw(3) ? draw(size) : draw(size < 700 ? size : 700); /* headers more often */
        switch (draw(4)) {
            case 0: data[at] = 0xff; break;
            case 1: data[at] = 0; break;
            case 2: data[at] ^= 1 << draw(8); break;
            default: data[at] = (uint8_t)draw(256);
        }
    }
}

static int decoded(const uint8_t *picture, size_t whole) {
    size_t size = draw(4) ? whole : draw(whole + 1), bytes = 1;
    uint8_t *data = malloc(size + !size), *room = malloc(bytes);
    memcpy(data, picture, size);
    damage(data, size);
    int height = 1 + (int)draw(100), width = 1 + (int)draw(130), edge = draw(3) ? (int)draw(300) : 0;
    int top = draw(50) ? (int)draw(40) : (int)draw(1u << 31) - 5, left = (int)draw(40);
    if (!draw(50)) width = (int)draw(1u << 31);
    int far = width > 5000; /* wider than any picture here: refused before anything is written */
    uint8_t *out = malloc(edge ? 3 * (size_t)edge * edge : far ? 1 : 3 * (size_t)height * width);
    long told = 1;
    while (told > 0 && told < MOST_ROOM) {
        told = headrace_jpeg_view(data, size, top, left, height, width, edge, (int)draw(2), room,
                                  bytes, out);
        if (told > 0) room = realloc(room, bytes = (size_t)told);
    }
    free(room), free(out), free(data);
    return told == 0;
}

int main(int count, char **words) {
    long times = atol(words[1]), shown = 0;
    state += 7919 * (uint64_t)atol(words[2]);
    int files = count - 3;
    uint8_t **pictures = malloc(sizeof *pictures * files);
    size_t *sizes = malloc(sizeof *sizes * files);
    for (int i = 0; i < files; i++) {
        FILE *file = fopen(words[3 + i], "rb");
        pictures[i] = malloc(MOST_BYTES);
        sizes[i] = fread(pictures[i], 1, MOST_BYTES, file);
        fclose(file);
    }
    for (long i = 0; i < times; i++) {
        int j = (int)draw(files);
        shown += decoded(pictures[j], sizes[j]);
    }
    printf("%ld decoded, %ld refused\n", shown, times - shown);
    for (int i = 0; i < files; i++) free(pictures[i]);
    free(pictures), free(sizes);
    return 0;
}
