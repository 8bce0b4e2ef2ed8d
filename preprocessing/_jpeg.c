/* What a view shows of a baseline JPEG, without the work on what it does not show: to the bit as
 * libjpeg-turbo and OpenCV's bilinear resize have it.
 *
 * Blocks beside and above the box are read for their codes only, those below not at all; the box's
 * colours go by rows through upsampling, conversion and resize into planes, mirrored on the way.
 * The arithmetic is that of the accurate integer DCT (Loeffler, Ligtenberg and Moschytz 1989), of
 * the triangle filter for colours, and of bilinear weights of 11 bits.
 *
 * Anything else than three components of 8 bits in one scan, by JFIF's rules, and any damage that
 * is met, is refused: the caller decodes the whole picture by a library. No index that comes from
 * the data is used before it is bounded; see the comments "bounded:".
 */
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <math.h>

#define FAST __attribute__((target("avx2,bmi2,fma")))
#define INLINE FAST static inline __attribute__((always_inline))
#define REFUSED (-1)
#define PEEK 10  /* bits of a code, with its value, that one look into a table decodes */
#define LOOKS (56 / PEEK) /* for which a refill suffices */
#define ENDED 127 /* a run that ends a block */
#define PADDING 4096 /* zeros after the codes: more than the blocks of one MCU can take */
#define SLACK 64     /* bytes that may be read after a row */

/* Where coefficients belong; whatever runs past the end of a block, to its last place. */
static const uint8_t PLACES[256] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, [63 ... 255] = 63};

/* -- headers */

typedef struct {
    int32_t fast[1 << PEEK]; /* value << 16 | run << 8 | bits; symbol << 16 | length << 8; or 0 */
    int32_t limit[17];       /* first code of 16 bits that is longer than this length */
    int32_t first[17];       /* number of the first symbol of a length, less its first code */
    uint8_t said[16 + 256];  /* the header's counts and symbols */
} Codes;

typedef struct {
    int width, height, across, down; /* px; blocks of luma in an MCU */
    int interval;                    /* MCUs between restarts, or 0 */
    uint16_t quants[4][64];
    int quant[3], dc[3], ac[3];
    int has_quant[4], has_codes[2][4];
    Codes codes[2][4]; /* kept from picture to picture: most have the same */
    const uint8_t *scan, *end;
} Picture;

static int make_codes(Codes *codes, const uint8_t *said, int total, int dc) {
    if (!memcmp(codes->said, said, 16 + total)) return 0;
    memset(codes, 0, sizeof *codes);
    int code = 0, number = 0;
    for (int length = 1; length <= 16; length++) {
        codes->first[length] = number - code;
        for (int i = 0; i < said[length - 1]; i++, code++, number++) {
            int symbol = said[16 + number], size = symbol & 15, run = symbol >> 4;
            if (code >> length || (dc && run)) return REFUSED; /* bounded: codes fit their length */
            if (length > PEEK) continue;
            int left = PEEK - length;
            int32_t *entries = codes->fast + (code << left);
            for (int rest = 0; rest < 1 << left; rest++) {
                if (!dc && size == 0) {
                    entries[rest] = (run == 15 ? 15 : ENDED) << 8 | length;
                } else if (size <= left) {
                    int value = size ? rest >> (left - size) : 0;
                    if (size && value < 1 << (size - 1)) value -= (1 << size) - 1;
                    entries[rest] = (int32_t)((uint32_t)value << 16) | run << 8 | (length + size);
                } else {
                    entries[rest] = symbol << 16 | length << 8;
                }
            }
        }
        codes->limit[length] = code << (16 - length);
        code <<= 1;
    }
    memcpy(codes->said, said, 16 + total);
    return 0;
}

static int read_quants(Picture *p, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int wide = *at >> 4, number = *at & 15;
        at++;
        if (wide > 1 || number > 3 || end - at < 64 << wide) return REFUSED;
        for (int i = 0; i < 64; i++, at += 1 + wide)
            p->quants[number][PLACES[i]] = wide ? at[0] << 8 | at[1] : at[0];
        p->has_quant[number] = 1;
    }
    return 0;
}

static int read_codes(Picture *p, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 17) return REFUSED;
        int ac = *at >> 4, number = *at & 15, total = 0;
        for (int i = 1; i <= 16; i++) total += at[i];
        if (ac > 1 || number > 3 || total > 256 || end - at < 17 + total) return REFUSED;
        if (make_codes(&p->codes[ac][number], at + 1, total, !ac)) return REFUSED;
        p->has_codes[ac][number] = 1;
        at += 17 + total;
    }
    return 0;
}

static int read_frame(Picture *p, const uint8_t *at, int size, uint8_t *ids) {
    if (size != 15 || at[0] != 8 || at[5] != 3 || p->width) return REFUSED;
    p->height = at[1] << 8 | at[2];
    p->width = at[3] << 8 | at[4];
    p->across = at[7] >> 4;
    p->down = at[7] & 15;
    int shape = at[7];
    if (shape != 0x11 && shape != 0x21 && shape != 0x22) return REFUSED;
    if (at[10] != 0x11 || at[13] != 0x11) return REFUSED;
    for (int i = 0; i < 3; i++) {
        ids[i] = at[6 + 3 * i];
        p->quant[i] = at[8 + 3 * i];
        if (p->quant[i] > 3) return REFUSED;
    }
    /* The library smooths no colours of pictures as narrow as this. */
    return p->height < 1 || p->width < 8 ? REFUSED : 0;
}

static int read_scan(Picture *p, const uint8_t *at, int size, const uint8_t *ids) {
    if (size != 10 || at[0] != 3 || at[7] != 0 || at[8] != 63 || at[9] != 0) return REFUSED;
    for (int i = 0; i < 3; i++) {
        int dc = at[2 + 2 * i] >> 4, ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != ids[i] || dc > 3 || ac > 3) return REFUSED;
        if (!p->has_codes[0][dc] || !p->has_codes[1][ac] || !p->has_quant[p->quant[i]])
            return REFUSED;
        p->dc[i] = dc;
        p->ac[i] = ac;
    }
    return 0;
}

static int read_headers(Picture *p, const uint8_t *data, size_t size) {
    const uint8_t *at = data + 2, *end = data + size;
    uint8_t ids[3] = {0};
    if (size < 20 || memcmp(data, "\xff\xd8\xff\xe0", 4)) return REFUSED;
    while (end - at >= 4 && at[0] == 0xff) {
        int marker = at[1], length = at[2] << 8 | at[3], refused = 0;
        const uint8_t *body = at + 4, *next = at + 2 + length;
        if (length < 2 || end - at < 2 + length) return REFUSED;
        switch (marker) {
        case 0xe0: /* JFIF: its rules of colour */
            refused = at == data + 2 && (length < 7 || memcmp(body, "JFIF", 5));
            break;
        case 0xc0:
        case 0xc1: refused = read_frame(p, body, length - 2, ids); break;
        case 0xc4: refused = read_codes(p, body, next); break;
        case 0xdb: refused = read_quants(p, body, next); break;
        case 0xdd:
            refused = length != 4;
            p->interval = refused ? 0 : body[0] << 8 | body[1];
            break;
        case 0xda:
            p->scan = next;
            p->end = end;
            return p->width ? read_scan(p, body, length - 2, ids) : REFUSED;
        default: return REFUSED;
        }
        if (refused) return REFUSED;
        at = next;
    }
    return REFUSED;
}

/* -- codes */

typedef struct {
    uint64_t bits; /* the next ones, from the highest */
    int count;
    const uint8_t *at, *begin;
    size_t bytes; /* of the segment, padding apart */
} Bits;

/* Copy codes up to the next marker without their stuffing; returns where the marker begins. */
static const uint8_t *unstuffed(const uint8_t *at, const uint8_t *end, uint8_t *out, Bits *bits) {
    uint8_t *to = out;
    while (at < end) {
        const uint8_t *mark = memchr(at, 0xff, end - at);
        size_t plain = (mark ? mark : end) - at;
        memcpy(to, at, plain);
        to += plain;
        at += plain;
        if (!mark || end - at < 2 || at[1]) break;
        *to++ = 0xff;
        at += 2;
    }
    memset(to, 0, PADDING);
    *bits = (Bits){0, 0, out, out, to - out};
    return at;
}

INLINE void refill(Bits *b) {
    uint64_t word;
    memcpy(&word, b->at, 8);
    b->bits |= __builtin_bswap64(word) >> b->count;
    b->at += (63 - b->count) >> 3;
    b->count |= 56;
}

/* Decode what one look could not; returns value << 16 | run << 8 as a look does, or -1 << 8. */
FAST static __attribute__((noinline)) int32_t decode_long(Bits *b, const Codes *codes,
                                                          int32_t entry, int dc) {
    int symbol = entry >> 16, length = entry >> 8 & 255;
    if (!entry) {
        int code = b->bits >> 48;
        for (length = PEEK + 1; length <= 16 && code >= codes->limit[length]; length++) {}
        if (length > 16) return INT32_MIN;
        /* bounded: a code below its limit has the number of a symbol that was counted */
        symbol = codes->said[16 + (((code >> (16 - length)) + codes->first[length]) & 255)];
    }
    b->bits <<= length;
    b->count -= length;
    int size = symbol & 15, run = symbol >> 4, value = 0;
    if (size) {
        value = b->bits >> (64 - size);
        b->bits <<= size;
        b->count -= size;
        if (value < 1 << (size - 1)) value -= (1 << size) - 1;
    } else if (!dc) {
        run = run == 15 ? 15 : ENDED;
    }
    return (int32_t)((uint32_t)value << 16) | run << 8;
}

/* Decode a block into coefficients that are zero so far; returns the difference of its DC. */
INLINE int decode_block(Bits *stream, const Codes *dc, const Codes *ac, int16_t *block,
                        int *difference) {
    Bits b = *stream;
    refill(&b);
    int32_t entry = dc->fast[b.bits >> (64 - PEEK)];
    if (entry & 255) {
        b.bits <<= entry & 63;
        b.count -= entry & 255;
    } else {
        Bits away = b;
        entry = decode_long(&away, dc, entry, 1);
        if (entry == INT32_MIN) return REFUSED;
        b = away;
    }
    *difference = entry >> 16;
    unsigned place = 1;
    for (;;) {
        refill(&b);
        for (int i = 0; i < LOOKS; i++) {
            entry = ac->fast[b.bits >> (64 - PEEK)];
            b.bits <<= entry & 63;
            if (__builtin_expect((entry & 255) == 0, 0)) {
                Bits away = b; /* b itself stays in registers */
                refill(&away);
                entry = decode_long(&away, ac, entry, 0);
                if (entry == INT32_MIN) return REFUSED;
                b = away;
                i = LOOKS;
            }
            b.count -= entry & 255;
            place += entry >> 8 & 255;
            block[PLACES[place]] = entry >> 16; /* bounded: place <= 63 + 127 */
            if (++place >= 64) goto ended;
        }
    }
ended:
    *stream = b;
    return place > 64 && place <= ENDED ? REFUSED : 0; /* more than 64 coefficients */
}

/* -- the inverse DCT of two blocks, one in each half of a register */

#define PAIR(a, b) _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)(a) | (uint32_t)(b) << 16))
#define HALVES(low, high, a, b)                                                                   \
    __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b)
#define MADD(low, high, x, a, b)                                                                  \
    __m256i low = _mm256_madd_epi16(x##_l, PAIR(a, b)), high = _mm256_madd_epi16(x##_h, PAIR(a, b))
#define BUTTERFLY(plus, minus, a, b, shift)                                                       \
    do {                                                                                          \
        __m256i low = _mm256_add_epi32(a##_l, half), high = _mm256_add_epi32(a##_h, half);        \
        r[plus] = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, b##_l), shift),      \
                                     _mm256_srai_epi32(_mm256_add_epi32(high, b##_h), shift));    \
        r[minus] = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_sub_epi32(low, b##_l), shift),     \
                                      _mm256_srai_epi32(_mm256_sub_epi32(high, b##_h), shift));   \
    } while (0)

/* One pass over eight values of 16 bits, constants of 13 bits; jidctint's names and order. */
INLINE void dct_pass(__m256i r[8], const int shift) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (shift - 1));
    HALVES(even_l, even_h, r[2], r[6]);
    MADD(t3_l, t3_h, even, 4433 + 6270, 4433);
    MADD(t2_l, t2_h, even, 4433, 4433 - 15137);
    __m256i sum = _mm256_add_epi16(r[0], r[4]), less = _mm256_sub_epi16(r[0], r[4]);
    __m256i t0_l = _mm256_srai_epi32(_mm256_unpacklo_epi16(zero, sum), 3);
    __m256i t0_h = _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, sum), 3);
    __m256i t1_l = _mm256_srai_epi32(_mm256_unpacklo_epi16(zero, less), 3);
    __m256i t1_h = _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, less), 3);
    __m256i t10_l = _mm256_add_epi32(t0_l, t3_l), t10_h = _mm256_add_epi32(t0_h, t3_h);
    __m256i t13_l = _mm256_sub_epi32(t0_l, t3_l), t13_h = _mm256_sub_epi32(t0_h, t3_h);
    __m256i t11_l = _mm256_add_epi32(t1_l, t2_l), t11_h = _mm256_add_epi32(t1_h, t2_h);
    __m256i t12_l = _mm256_sub_epi32(t1_l, t2_l), t12_h = _mm256_sub_epi32(t1_h, t2_h);

    __m256i z3 = _mm256_add_epi16(r[3], r[7]), z4 = _mm256_add_epi16(r[1], r[5]);
    HALVES(odd_l, odd_h, z3, z4);
    MADD(z3_l, z3_h, odd, 9633 - 16069, 9633);
    MADD(z4_l, z4_h, odd, 9633, 9633 - 3196);
    HALVES(outer_l, outer_h, r[7], r[1]);
    MADD(a0_l, a0_h, outer, 2446 - 7373, -7373);
    MADD(a3_l, a3_h, outer, -7373, 12299 - 7373);
    HALVES(inner_l, inner_h, r[5], r[3]);
    MADD(a1_l, a1_h, inner, 16819 - 20995, -20995);
    MADD(a2_l, a2_h, inner, -20995, 25172 - 20995);
    a0_l = _mm256_add_epi32(a0_l, z3_l), a0_h = _mm256_add_epi32(a0_h, z3_h);
    a1_l = _mm256_add_epi32(a1_l, z4_l), a1_h = _mm256_add_epi32(a1_h, z4_h);
    a2_l = _mm256_add_epi32(a2_l, z3_l), a2_h = _mm256_add_epi32(a2_h, z3_h);
    a3_l = _mm256_add_epi32(a3_l, z4_l), a3_h = _mm256_add_epi32(a3_h, z4_h);
    BUTTERFLY(0, 7, t10, a3, shift);
    BUTTERFLY(1, 6, t11, a2, shift);
    BUTTERFLY(2, 5, t12, a1, shift);
    BUTTERFLY(3, 4, t13, a0, shift);
}

FAST static inline void transpose(__m256i r[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        r[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

FAST static inline void put_rows(__m256i two, uint8_t *a, int step_a, uint8_t *b, int step_b) {
    __m128i low = _mm256_castsi256_si128(two), high = _mm256_extracti128_si256(two, 1);
    _mm_storel_epi64((__m128i *)a, low);
    _mm_storeh_pd((double *)(a + step_a), _mm_castsi128_pd(low));
    _mm_storel_epi64((__m128i *)b, high);
    _mm_storeh_pd((double *)(b + step_b), _mm_castsi128_pd(high));
}

/* Write the 8x8 px of two blocks, which lie one after the other. */
FAST static void idct_two(const int16_t *blocks, const __m256i *quants, uint8_t *a, int step_a,
                          uint8_t *b, int step_b) {
    __m256i r[8];
    for (int i = 0; i < 8; i++) {
        __m128i low = _mm_load_si128((const __m128i *)(blocks + 8 * i));
        __m128i high = _mm_load_si128((const __m128i *)(blocks + 64 + 8 * i));
        r[i] = _mm256_mullo_epi16(_mm256_set_m128i(high, low), quants[i]);
    }
    dct_pass(r, 11);
    transpose(r);
    dct_pass(r, 18);
    const __m256i middle = _mm256_set1_epi8((char)0x80);
    __m256i c04 = _mm256_packs_epi16(r[0], r[4]), c15 = _mm256_packs_epi16(r[1], r[5]);
    __m256i c26 = _mm256_packs_epi16(r[2], r[6]), c37 = _mm256_packs_epi16(r[3], r[7]);
    __m256i c01 = _mm256_unpacklo_epi8(c04, c15), c45 = _mm256_unpackhi_epi8(c04, c15);
    __m256i c23 = _mm256_unpacklo_epi8(c26, c37), c67 = _mm256_unpackhi_epi8(c26, c37);
    __m256i top_l = _mm256_unpacklo_epi16(c01, c23), end_l = _mm256_unpackhi_epi16(c01, c23);
    __m256i top_r = _mm256_unpacklo_epi16(c45, c67), end_r = _mm256_unpackhi_epi16(c45, c67);
    __m256i rows[4] = {_mm256_unpacklo_epi32(top_l, top_r), _mm256_unpackhi_epi32(top_l, top_r),
                       _mm256_unpacklo_epi32(end_l, end_r), _mm256_unpackhi_epi32(end_l, end_r)};
    for (int i = 0; i < 4; i++)
        put_rows(_mm256_xor_si256(rows[i], middle), a + 2 * i * step_a, step_a,
                 b + 2 * i * step_b, step_b);
}

/* -- the box's blocks */

typedef struct {
    int top, left, height, width; /* px, inside the picture */
} Box;

typedef struct {
    int first_x, last_x, first_y, last_y; /* MCUs */
    int step[3], rows[3];                 /* bytes of a row, rows */
    uint8_t *plane[3];
} Planes;

static size_t lay_planes(const Picture *p, const Box *box, Planes *planes, uint8_t *memory) {
    int wide = 8 * p->across, high = 8 * p->down;
    int left = box->left, right = box->left + box->width - 1;
    int top = box->top, bottom = box->top + box->height - 1;
    /* Smoothed colours take from a neighbour: of an even place before, of an odd one behind. */
    if (p->across == 2) left = left > 1 ? (left - 1) & ~1 : 0, right = (right + 1) & ~1;
    if (p->down == 2) top = top > 1 ? (top - 1) & ~1 : 0, bottom = (bottom + 1) & ~1;
    if (right >= p->width) right = p->width - 1;
    if (bottom >= p->height) bottom = p->height - 1;
    planes->first_x = left / wide, planes->last_x = right / wide;
    planes->first_y = top / high, planes->last_y = bottom / high;
    size_t total = 0;
    for (int i = 0; i < 3; i++) {
        int x = i ? 1 : p->across, y = i ? 1 : p->down;
        planes->step[i] = 8 * x * (planes->last_x - planes->first_x + 1);
        planes->rows[i] = 8 * y * (planes->last_y - planes->first_y + 1);
        planes->plane[i] = memory + total;
        total += (size_t)planes->step[i] * planes->rows[i] + SLACK;
    }
    return total;
}

/* Decode the MCUs down to the box's last one; those that it shows become samples. */
FAST static __attribute__((noinline)) int decode_planes(const Picture *p, const Planes *planes,
                                                        uint8_t *room) {
    int16_t blocks[6 * 64] __attribute__((aligned(32)));
    __m256i quants[3][8];
    int luma = p->across * p->down, count = luma + 2, of[6], predicted[3] = {0};
    const Codes *dc[6], *ac[6];
    for (int i = 0; i < count; i++) {
        of[i] = i < luma ? 0 : i - luma + 1;
        dc[i] = &p->codes[0][p->dc[of[i]]];
        ac[i] = &p->codes[1][p->ac[of[i]]];
    }
    for (int pair = 0; pair < (count + 1) / 2; pair++)
        for (int i = 0; i < 8; i++) {
            const uint16_t *a = p->quants[p->quant[of[2 * pair]]];
            const uint16_t *b = p->quants[p->quant[of[2 * pair + 1 < count ? 2 * pair + 1 : 0]]];
            quants[pair][i] = _mm256_set_m128i(_mm_loadu_si128((const __m128i *)(b + 8 * i)),
                                               _mm_loadu_si128((const __m128i *)(a + 8 * i)));
        }
    int wide = (p->width + 8 * p->across - 1) / (8 * p->across), left = p->interval;
    Bits bits;
    uint8_t unseen[64];
    const uint8_t *at = unstuffed(p->scan, p->end, room, &bits);
    for (int y = 0; y <= planes->last_y; y++) {
        int last = y == planes->last_y ? planes->last_x : wide - 1;
        for (int x = 0; x <= last; x++) {
            int shown = y >= planes->first_y && x >= planes->first_x && x <= planes->last_x;
            if (p->interval && left-- == 0) {
                if (p->end - at < 2 || (at[1] & 0xf8) != 0xd0) return REFUSED;
                at = unstuffed(at + 2, p->end, room, &bits);
                memset(predicted, 0, sizeof predicted);
                left = p->interval - 1;
            }
            if (shown) memset(blocks, 0, sizeof blocks);
            for (int i = 0; i < count; i++) {
                int difference, c = of[i];
                int16_t *block = blocks + 64 * i;
                if (decode_block(&bits, dc[i], ac[i], block, &difference)) return REFUSED;
                block[0] = predicted[c] += difference;
            }
            /* bounded: PADDING is more than an MCU takes, so no read has left the memory */
            if (8 * (size_t)(bits.at - bits.begin) - bits.count > 8 * bits.bytes) return REFUSED;
            if (!shown) continue;
            uint8_t *to[6];
            for (int i = 0; i < count; i++) {
                int c = of[i], column = c ? 0 : i % p->across, row = c ? 0 : i / p->across;
                int step = planes->step[c], many_x = c ? 1 : p->across, many_y = c ? 1 : p->down;
                to[i] = planes->plane[c] + 8 * ((x - planes->first_x) * many_x + column) +
                        (size_t)8 * ((y - planes->first_y) * many_y + row) * step;
            }
            for (int i = 0; i < count; i += 2) {
                int both = i + 1 < count;
                idct_two(blocks + 64 * i, quants[i / 2], to[i], planes->step[of[i]],
                         both ? to[i + 1] : unseen, both ? planes->step[of[i + 1]] : 8);
            }
        }
    }
    return 0;
}

/* -- rows of colours */

typedef struct {
    const Picture *p;
    const Planes *planes;
    const Box *box;
    uint16_t *sums;   /* of one row of colours, one before it and one behind */
    uint8_t *wide[2]; /* colours of a row, smoothed */
} Rows;

/* Smooth one row of a colour along x, and along y where they are halved that way too. */
FAST static const uint8_t *smoothed(const Rows *rows, int y, int c) {
    const Picture *p = rows->p;
    const Planes *planes = rows->planes;
    int step = planes->step[c], first = 8 * planes->first_x;
    const uint8_t *plane = planes->plane[c];
    if (p->across == 1) return plane + (size_t)(y - 8 * planes->first_y) * step;
    int narrow = (p->width + 1) / 2, near = y, far = y;
    if (p->down == 2) {
        int short_ = (p->height + 1) / 2;
        near = y / 2;
        far = near + (y % 2 ? 1 : -1);
        far = far < 0 ? 0 : far >= short_ ? short_ - 1 : far;
    }
    const uint8_t *a = plane + (size_t)(near - 8 * planes->first_y) * step;
    const uint8_t *b = plane + (size_t)(far - 8 * planes->first_y) * step;
    uint16_t *restrict sums = rows->sums + 16;
    uint8_t *restrict out = rows->wide[c - 1];
    int end = narrow - first < step ? narrow - first : step;
    int shift = p->down == 2 ? 4 : 2, even = p->down == 2 ? 8 : 1, odd = p->down == 2 ? 7 : 2;
    if (p->down == 2)
        for (int i = 0; i < step; i++) sums[i] = 3 * a[i] + b[i];
    else
        for (int i = 0; i < step; i++) sums[i] = a[i];
    sums[-1] = sums[0];
    sums[end] = sums[end - 1];
    for (int i = 0; i < end; i++) {
        unsigned three = 3 * sums[i];
        out[2 * i] = (uint16_t)(three + sums[i - 1] + even) >> shift;
        out[2 * i + 1] = (uint16_t)(three + sums[i + 1] + odd) >> shift;
    }
    return out;
}

FAST static inline __m256i rounded(__m256i twice, int factor) {
    __m256i product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16(factor));
    return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

FAST static inline void put_bytes(uint8_t *to, __m256i words) {
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(bytes));
}

/* Write row y of the box as red, green and blue; up to 15 bytes behind each are written too. */
FAST static void colour_row(const Rows *rows, int y, uint8_t *red, uint8_t *green, uint8_t *blue) {
    const Planes *planes = rows->planes;
    int start = rows->box->left - 8 * rows->p->across * planes->first_x;
    const uint8_t *luma = planes->plane[0] + start +
                          (size_t)(y - 8 * rows->p->down * planes->first_y) * planes->step[0];
    const uint8_t *cb = smoothed(rows, y, 1) + start, *cr = smoothed(rows, y, 2) + start;
    const __m256i middle = _mm256_set1_epi16(128), half = _mm256_set1_epi32(32768);
    for (int x = 0; x < rows->box->width; x += 16) {
        __m256i l = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(luma + x)));
        __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(cb + x)));
        __m256i r = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(cr + x)));
        b = _mm256_sub_epi16(b, middle);
        r = _mm256_sub_epi16(r, middle);
        __m256i b2 = _mm256_add_epi16(b, b), r2 = _mm256_add_epi16(r, r);
        HALVES(both_l, both_h, b, r);
        MADD(g_l, g_h, both, -22554, 18734);
        g_l = _mm256_srai_epi32(_mm256_add_epi32(g_l, half), 16);
        g_h = _mm256_srai_epi32(_mm256_add_epi32(g_h, half), 16);
        __m256i g = _mm256_sub_epi16(_mm256_packs_epi32(g_l, g_h), r);
        put_bytes(red + x, _mm256_add_epi16(_mm256_add_epi16(l, r), rounded(r2, 26345)));
        put_bytes(green + x, _mm256_add_epi16(l, g));
        put_bytes(blue + x, _mm256_add_epi16(_mm256_add_epi16(l, b2), rounded(b2, -14942)));
    }
}

/* -- resize */

#define MOST_EDGE 1024

typedef struct {
    int edge, groups; /* px; groups of 8 px, an even number */
    int32_t begin[MOST_EDGE / 8];
    uint8_t take[MOST_EDGE / 8][16] __attribute__((aligned(32)));
    int16_t weights[MOST_EDGE / 8][16] __attribute__((aligned(32)));
    int32_t row[MOST_EDGE];
    int16_t share[MOST_EDGE][2];
} Resize;

/* Return where an output px begins and the weights of it and the next, by OpenCV's arithmetic. */
FAST static inline int weigh(int place, double scale, float *part) {
    float at = (float)((place + 0.5) * scale - 0.5);
    int below = (int)floorf(at);
    *part = at - below;
    return below;
}

FAST static inline int16_t fixed(float weight) { return (int16_t)lrintf(weight * 2048); }

FAST static int plan_resize(Resize *plan, const Box *box, int edge, int flip) {
    plan->edge = edge;
    plan->groups = (edge + 15) / 16 * 2;
    double scale = 1.0 / ((double)edge / box->width);
    for (int group = 0; group < plan->groups; group++) {
        int at[8], begin = INT32_MAX;
        for (int i = 0; i < 8; i++) {
            int place = 8 * group + i, last = place >= edge ? edge - 1 : place;
            float part;
            at[i] = weigh(flip ? edge - 1 - last : last, scale, &part);
            if (at[i] < 0) at[i] = 0, part = 0;
            if (at[i] >= box->width - 1) at[i] = box->width - 1, part = 0;
            plan->weights[group][2 * i] = fixed(1.f - part);
            plan->weights[group][2 * i + 1] = fixed(part);
            begin = at[i] < begin ? at[i] : begin;
        }
        plan->begin[group] = begin;
        for (int i = 0; i < 8; i++) {
            if (at[i] - begin > 14) return REFUSED; /* bounded: 16 bytes hold all 8 pairs */
            plan->take[group][2 * i] = at[i] - begin;
            plan->take[group][2 * i + 1] = at[i] - begin + 1;
        }
    }
    scale = 1.0 / ((double)edge / box->height);
    for (int y = 0; y < edge; y++) {
        float part;
        plan->row[y] = weigh(y, scale, &part);
        plan->share[y][0] = fixed(1.f - part);
        plan->share[y][1] = fixed(part);
    }
    return 0;
}

/* Interpolate one row of one colour; 12 bits behind the point go, as OpenCV lets them go. */
FAST static void resize_row(const Resize *plan, const uint8_t *from, int16_t *to) {
    const __m256i zero = _mm256_setzero_si256();
    for (int group = 0; group < plan->groups; group += 2) {
        __m128i a = _mm_loadu_si128((const __m128i *)(from + plan->begin[group]));
        __m128i b = _mm_loadu_si128((const __m128i *)(from + plan->begin[group + 1]));
        __m256i take = _mm256_load_si256((const __m256i *)plan->take[group]);
        __m256i pairs = _mm256_shuffle_epi8(_mm256_set_m128i(b, a), take);
        __m256i first = _mm256_load_si256((const __m256i *)plan->weights[group]);
        __m256i second = _mm256_load_si256((const __m256i *)plan->weights[group + 1]);
        __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi8(pairs, zero),
                                        _mm256_permute2x128_si256(first, second, 0x20));
        __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi8(pairs, zero),
                                         _mm256_permute2x128_si256(first, second, 0x31));
        low = _mm256_srai_epi32(low, 4);
        high = _mm256_srai_epi32(high, 4);
        _mm256_storeu_si256((__m256i *)(to + 8 * group), _mm256_packs_epi32(low, high));
    }
}

FAST static void mix_rows(const Resize *plan, int y, const int16_t *a, const int16_t *b,
                          uint8_t *to) {
    const __m256i first = _mm256_set1_epi16(plan->share[y][0]), two = _mm256_set1_epi16(2);
    const __m256i second = _mm256_set1_epi16(plan->share[y][1]);
    uint8_t row[MOST_EDGE];
    for (int x = 0; x < plan->edge; x += 16) {
        __m256i above = _mm256_mulhi_epi16(_mm256_loadu_si256((const __m256i *)(a + x)), first);
        __m256i below = _mm256_mulhi_epi16(_mm256_loadu_si256((const __m256i *)(b + x)), second);
        __m256i mean = _mm256_add_epi16(_mm256_add_epi16(above, below), two);
        put_bytes(row + x, _mm256_srai_epi16(mean, 2));
    }
    memcpy(to, row, plan->edge);
}

FAST static void show(const Rows *rows, const Resize *plan, uint8_t *colours, int16_t *ready,
                      uint8_t *out) {
    int edge = plan->edge, last = rows->box->height - 1, done = -1, stride = 8 * plan->groups;
    size_t step = (rows->box->width + SLACK + 31) & ~31;
    for (int y = 0; y < edge; y++) {
        int a = plan->row[y], b = a + 1;
        a = a < 0 ? 0 : a > last ? last : a;
        b = b < 0 ? 0 : b > last ? last : b;
        for (int row = done < a ? a : done + 1; row <= b; row++) {
            colour_row(rows, rows->box->top + row, colours, colours + step, colours + 2 * step);
            for (int c = 0; c < 3; c++)
                resize_row(plan, colours + c * step, ready + (3 * (row & 1) + c) * stride);
        }
        done = b > done ? b : done;
        for (int c = 0; c < 3; c++)
            mix_rows(plan, y, ready + (3 * (a & 1) + c) * stride,
                     ready + (3 * (b & 1) + c) * stride, out + ((size_t)c * edge + y) * edge);
    }
}

static void interleave(const Rows *rows, uint8_t *colours, uint8_t *out) {
    size_t step = (rows->box->width + SLACK + 31) & ~31;
    for (int y = 0; y < rows->box->height; y++) {
        colour_row(rows, rows->box->top + y, colours, colours + step, colours + 2 * step);
        for (int x = 0; x < rows->box->width; x++, out += 3) {
            out[0] = colours[x];
            out[1] = colours[step + x];
            out[2] = colours[2 * step + x];
        }
    }
}

/* Write what a box of a JPEG shows: with edge > 0 resized to planes (3, edge, edge), mirrored if
 * flip; else as it is, (height, width, 3).
 *
 * Returns 0; -1 where the picture is of another kind or damaged, the box leaves it, or the resize
 * shrinks to a half or less; or how many bytes of room are needed, if there are fewer.
 */
long headrace_jpeg_view(const uint8_t *data, size_t size, int top, int left, int height, int width,
                        int edge, int flip, uint8_t *room, size_t bytes, uint8_t *out) {
    static _Thread_local Picture picture;
    static _Thread_local Resize plan;
    Planes planes;
    Box box = {top, left, height, width};
    Picture *p = &picture;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return REFUSED;
    p->width = p->interval = 0;
    memset(p->has_quant, 0, sizeof p->has_quant);
    memset(p->has_codes, 0, sizeof p->has_codes);
    if (read_headers(p, data, size)) return REFUSED;
    if (top < 0 || left < 0 || height < 1 || width < 1 || top > p->height - height ||
        left > p->width - width || edge < 0 || edge > MOST_EDGE)
        return REFUSED;
    if (edge && plan_resize(&plan, &box, edge, flip)) return REFUSED;
    size_t samples = lay_planes(p, &box, &planes, room), sums = 2 * (planes.step[1] + SLACK);
    size_t colours = 3 * ((width + SLACK + 31) & ~31), wide = 2 * planes.step[1] + 2 * SLACK;
    size_t ready = edge ? 6 * sizeof(int16_t) * 8 * plan.groups : 0;
    size_t needed = samples + size + PADDING + sums + 2 * wide + colours + ready + 4 * SLACK;
    if (bytes < needed) return (long)needed;
    uint8_t *at = room + ((samples + 31) & ~(size_t)31);
    if (decode_planes(p, &planes, at)) return REFUSED;
    /* The codes are used up: rows of colours lie where they were. */
    uint8_t *smooth = at + sums;
    Rows rows = {p, &planes, &box, (uint16_t *)at, {smooth, smooth + wide}};
    at = smooth + 2 * wide;
    if (edge)
        show(&rows, &plan, at, (int16_t *)(at + colours), out);
    else
        interleave(&rows, at, out);
    return 0;
}
#else
long headrace_jpeg_view(const uint8_t *data, size_t size, int top, int left, int height, int width,
                        int edge, int flip, uint8_t *room, size_t bytes, uint8_t *out) {
    (void)data, (void)size, (void)top, (void)left, (void)height, (void)width, (void)edge;
    (void)flip, (void)room, (void)bytes, (void)out;
    return -1;
}
#endif
