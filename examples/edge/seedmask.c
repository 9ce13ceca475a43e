/* See seedmask.h. Section numbers are those of docs/FORMAT.md. */
#include "seedmask.h"

#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if FLT_RADIX != 2 || FLT_MANT_DIG != 24 || FLT_MAX_EXP != 128
#error "float must be IEEE 754 binary32"
#endif
#if INT_MAX < 2147483647
#error "int must have 32 bits"
#endif

enum {
    CHUNK = 2048,  /* weights a sink gets at once; a multiple of a block of the generator */
    BLOCK = 16,    /* weights of one call of the generator */
    WINDOW = 2048, /* bytes of a payload in memory; even, so that words do not straddle windows */
    EXPANDED = 512,
    MAX_CLASSES = 256,
    MAX_SYMBOLS = 256,
    MAX_LANE = 32768,
    MAX_DEPTH = 17, /* recipe and architecture nest 16 deep, inside the manifest */
    SLOTS = 65536
};

static const uint64_t MAX_TENSOR = UINT64_C(1) << 36;
static const uint64_t MAX_FROZEN = UINT64_C(1) << 35; /* a block of the generator decides on 8 weights */
static const uint64_t MAX_HEADER_LENGTH = 100000000;

/* ---- SHA-256 (FIPS 180-4) ------------------------------------------------------------------------------------ */

struct sha256 {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
};

static const uint32_t SHA256_INITIAL[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                           0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const uint32_t SHA256_ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate_right(uint32_t value, unsigned bits)
{
    return value >> bits | value << (32 - bits);
}

static void sha256_block(uint32_t state[8], const unsigned char *bytes)
{
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 16; ++i) {
        const unsigned char *at = bytes + 4 * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (int i = 16; i < 64; ++i) {
        uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 64; ++i) {
        uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + SHA256_ROUND[i] + w[i];
        uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

static void sha256_start(struct sha256 *sha)
{
    memcpy(sha->state, SHA256_INITIAL, sizeof sha->state);
    sha->length = 0;
}

static void sha256_add(struct sha256 *sha, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    while (size > 0) {
        size_t filled = (size_t)(sha->length % 64);
        size_t part = 64 - filled < size ? 64 - filled : size;
        if (part == 64) {
            sha256_block(sha->state, bytes);
        } else {
            memcpy(sha->block + filled, bytes, part);
            if (filled + part == 64)
                sha256_block(sha->state, sha->block);
        }
        sha->length += part;
        bytes += part;
        size -= part;
    }
}

static void sha256_finish(struct sha256 *sha, unsigned char digest[32])
{
    static const unsigned char PADDING[64] = {0x80};
    unsigned char length[8];
    for (int i = 0; i < 8; ++i)
        length[i] = (unsigned char)(8 * sha->length >> (56 - 8 * i) & 255);
    sha256_add(sha, PADDING, (size_t)(64 - (sha->length + 8) % 64));
    sha256_add(sha, length, 8);
    for (int i = 0; i < 32; ++i)
        digest[i] = (unsigned char)(sha->state[i / 4] >> (24 - 8 * (i % 4)) & 255);
}

static void to_hex(const unsigned char digest[32], char text[65])
{
    for (int i = 0; i < 32; ++i) {
        text[2 * i] = "0123456789abcdef"[digest[i] / 16];
        text[2 * i + 1] = "0123456789abcdef"[digest[i] % 16];
    }
    text[64] = '\0';
}

/* ---- Random codes (1.1, 1.2) and their weights --------------------------------------------------------------- */

enum purpose { WEIGHTS = 0, FREEZING = 7 };

/* Philox4x32-10; the 16 bytes of a block, in order. */
static void philox(uint32_t block, uint32_t draw, uint32_t tensor, enum purpose purpose, uint64_t seed,
                   uint8_t bytes[BLOCK])
{
    uint32_t c0 = block, c1 = draw, c2 = tensor, c3 = (uint32_t)purpose;
    uint32_t k0 = (uint32_t)(seed & UINT32_MAX), k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; ++i) {
        uint64_t p0 = UINT64_C(0xD2511F53) * c0, p1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)(p1 & UINT32_MAX);
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)(p0 & UINT32_MAX);
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    for (unsigned i = 0; i < 4; ++i) {
        bytes[i] = (uint8_t)(c0 >> 8 * i & 255);
        bytes[4 + i] = (uint8_t)(c1 >> 8 * i & 255);
        bytes[8 + i] = (uint8_t)(c2 >> 8 * i & 255);
        bytes[12 + i] = (uint8_t)(c3 >> 8 * i & 255);
    }
}

enum codebook { SIGNED_CONSTANT, UNIFORM, NORMAL, CODEBOOKS };

static const char *const CODEBOOK_NAMES[CODEBOOKS] = {"signed-constant", "uniform", "normal"};

static const int8_t NORMAL_HALF[128] = {
    1,  1,  1,  2,  2,  2,  3,  3,  4,  4,  5,  5,  5,  6,  6,  7,  7,  8,  8,  8,  9,  9,  10, 10, 11, 11,
    12, 12, 12, 13, 13, 14, 14, 15, 15, 16, 16, 17, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23,
    24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 31, 31, 32, 32, 33, 33, 34, 34, 35, 36, 36, 37, 37,
    38, 39, 39, 40, 41, 41, 42, 43, 43, 44, 45, 46, 46, 47, 48, 49, 49, 50, 51, 52, 53, 54, 55, 56, 57, 57,
    59, 60, 61, 62, 63, 64, 65, 67, 68, 70, 71, 73, 75, 77, 79, 81, 83, 86, 89, 93, 97, 103, 111, 127};

static int codebook_entry(enum codebook book, int byte)
{
    switch (book) {
    case SIGNED_CONSTANT:
        return byte < 128 ? -1 : 1;
    case UNIFORM:
        return 2 * (byte / 2) - 127;
    default:
        return byte >= 128 ? NORMAL_HALF[byte - 128] : -NORMAL_HALF[127 - byte];
    }
}

/*
 * The bits of float32(code) * scale, rounded to nearest, ties to even, for a positive normal scale and a code from -127
 * to 127. In integers, so that no rounding mode, excess precision or fast-math option of the host matters.
 */
static uint32_t product_bits(uint32_t scale, int code)
{
    uint32_t sign = code < 0 ? UINT32_C(0x80000000) : 0;
    uint32_t exponent = scale >> 23;
    uint32_t product = (scale & 0x7fffff) + 0x800000; /* 24 bits; times 7 bits below */
    unsigned shift = 0;
    if (code == 0)
        return 0;
    product *= (uint32_t)(code < 0 ? -code : code);
    while (product >> shift >= 0x1000000)
        ++shift;
    if (shift > 0) {
        uint32_t half = UINT32_C(1) << (shift - 1), rest = product & (2 * half - 1);
        product >>= shift;
        if (rest > half || (rest == half && product % 2 == 1))
            ++product;
        if (product == 0x1000000) {
            product >>= 1;
            ++shift;
        }
    }
    exponent += shift;
    if (exponent >= 255)
        return sign | 0x7f800000; /* infinite */
    return sign | exponent << 23 | (product & 0x7fffff);
}

/* ---- The object ---------------------------------------------------------------------------------------------- */

enum coding { RAW, RANS, GAPS, CODINGS };
static const char *const CODING_NAMES[CODINGS] = {"raw", "rans", "gaps"};

enum log_kind { NO_LOG, FLIPS, DRAWS, DELTAS, LOG_KINDS };
static const char *const LOG_NAMES[LOG_KINDS] = {"none", "flips", "draws", "deltas"};

/* Dtypes of trained values (1.8). */
enum value_kind { VALUES_F16, VALUES_F32, VALUES_I8, VALUE_KINDS, NO_VALUES = VALUE_KINDS };
static const char *const VALUE_NAMES[VALUE_KINDS] = {"F16", "F32", "I8"};
static const uint8_t VALUE_BYTES[VALUE_KINDS] = {2, 4, 1};

/* What a file may require of its reader, sorted. */
enum feature {
    FEATURE_COATS,
    FEATURE_COMPACT,
    FEATURE_CONSTANTS,
    FEATURE_DELTAS,
    FEATURE_FROZEN,
    FEATURE_GAPS,
    FEATURE_RANS,
    FEATURE_TEXT,
    FEATURE_VALUES,
    FEATURES
};
static const char *const FEATURE_NAMES[FEATURES] = {"coats", "compact", "constants", "deltas", "frozen",
                                                    "gaps",  "rans",    "text",      "values"};

enum { DTYPES = 13 };
static const char *const DTYPE_NAMES[DTYPES] = {"BOOL", "U8",  "I8",  "U16", "I16", "F16", "BF16",
                                                "U32",  "I32", "F32", "U64", "I64", "F64"};
static const uint8_t DTYPE_BYTES[DTYPES] = {1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8};

/* What the manifest says of a masked tensor. Pointers are into the manifest, at the value. */
struct tensor {
    const char *name, *shape, *sha256; /* the digest is NULL in a compact file */
    unsigned char found[32];           /* in which that of a tensor is kept once it has been decoded */
    bool decoded;
    uint64_t weights, kept, mask_bytes, log_bytes, mask_offset, log_offset;
    uint64_t free; /* mask bits that are stored; all, unless it is frozen */
    uint64_t coats_bytes, values_bytes, coats_offset, values_offset, scales_offset, rows;
    uint32_t scale, fixed_pruned, fixed_end; /* thresholds (1.6); an end of 0: no frozen mask */
    uint8_t codebook, mask_coding, log_coding, log_kind, log_width;
    uint8_t coats_coding, coats_width, values_coding, values_kind; /* a width of 0: no coats */
};

struct state {
    const char *name, *shape, *value; /* the digits of the one value of all items; NULL: the items are in the file */
    uint64_t bytes, offset;
    uint8_t dtype;
};

/* A part of the file that is read from the front; `next` to `end` is not in memory yet. */
struct window {
    uint64_t next, end;
    size_t at, have;
    unsigned char bytes[WINDOW];
};

/* A mask or a log that is being decoded (1.3). */
struct row {
    const char *what;
    unsigned width;
    enum coding coding;
    struct window payload; /* bytes of `raw`; of the others the header, then the words */

    /* bits of `raw`, and of `rans` with width 1: some bytes ahead, and the bits of the current one */
    uint64_t bytes_left;
    size_t at, have;
    unsigned char bytes[EXPANDED];
    unsigned bits, bit_count;

    /* entropy coding (1.4): classes of symbols of one frequency, in the order of their slots */
    struct window states, lengths;
    uint64_t symbols; /* not in a lane that has begun */
    uint64_t lane;    /* number of the next lane */
    uint32_t lane_size, lane_symbols, lane_words, x;
    unsigned classes;
    uint32_t frequency[MAX_CLASSES], first_slot[MAX_CLASSES + 1];
    uint16_t first_symbol[MAX_CLASSES + 1]; /* position in `order` */
    uint8_t order[MAX_SYMBOLS];
    uint8_t class_of_slot[257]; /* of slot 256 * i, so that few classes are left to search; the last is a fence */

    /* gaps (1.5) */
    uint64_t uncovered; /* values behind the symbols so far */
    uint32_t zeros;     /* still to be handed out */
    bool one;           /* and a one after them */
};

struct seedmask {
    bool open;
    seedmask_code code;
    char message[320];
    char place[112];
    char quoted[72];

    seedmask_read *read;
    void *user;
    const unsigned char *memory; /* of seedmask_open_memory */
    uint64_t data_begin, data_bytes;
    uint64_t sealed_begin, sealed_bytes; /* what the digest of the payload covers */
    size_t max_header;
    int skip_weight_digests;

    unsigned char *header; /* the manifest inside is unescaped in place */
    size_t header_bytes, manifest_bytes;
    const char *manifest; /* NUL-terminated printable ASCII */
    uint64_t seed;
    char *expanded; /* of a compact file: its directory as a manifest */
    const char *payload_digest;
    char payload_text[65], weights_text[65];
    struct tensor *tensors;
    struct state *states;
    size_t tensor_count, state_count;
    bool constants; /* whether there are state tensors of one value */

    /* trained values, which exclude a log and coats, go through `log`, and their scales through a window of `coats` */
    struct row mask, log, coats;
    uint8_t kept[CHUNK], draws[CHUNK], coat_values[CHUNK];
    int8_t codes[CHUNK];
    float weights[CHUNK];
};

/* A promise of the README. */
typedef char working_memory_is_small[sizeof(struct seedmask) <= 48 * 1024 ? 1 : -1];

/* ---- Errors -------------------------------------------------------------------------------------------------- */

/* Note the first error of a call; later ones follow from it. */
static void fail(seedmask *file, seedmask_code code, const char *format, ...)
{
    va_list arguments;
    int length;
    if (file->code != SEEDMASK_OK)
        return;
    file->code = code;
    length = snprintf(file->message, sizeof file->message, "%s%s", file->place, file->place[0] ? ": " : "");
    if (length < 0 || (size_t)length >= sizeof file->message)
        length = 0;
    va_start(arguments, format);
    vsnprintf(file->message + length, sizeof file->message - (size_t)length, format, arguments);
    va_end(arguments);
}

static bool failed(const seedmask *file)
{
    return file->code != SEEDMASK_OK;
}

/* The JSON value, or the beginning of one, that stands at a place of the manifest; short and printable. */
static const char *quote(seedmask *file, const char *at)
{
    const size_t limit = sizeof file->quoted - 4;
    const char *ends = *at == '[' ? "]" : *at == '"' ? "\"" : ",]}";
    size_t length = 0;
    bool escaped = false;
    while (length < limit && at[length] >= 0x20 && at[length] <= 0x7e) {
        char character = at[length];
        file->quoted[length++] = character;
        if (length > 1 && !escaped && strchr(ends, character)) {
            length -= *ends == ',';
            break;
        }
        escaped = *at == '"' && character == '\\' && !escaped;
    }
    strcpy(file->quoted + length, length == limit ? "..." : length == 0 ? "the end" : "");
    return file->quoted;
}

static void set_place(seedmask *file, const char *list, size_t index, const char *name)
{
    file->place[0] = '\0';
    if (list)
        snprintf(file->place, sizeof file->place, "%s[%zu]%s%s", list, index, name ? " " : "",
                 name ? quote(file, name) : "");
}

/* ---- Reading the file ---------------------------------------------------------------------------------------- */

/* Callers have made sure that the bytes are inside the file. */
static bool read_bytes(seedmask *file, uint64_t offset, void *buffer, size_t size)
{
    if (file->memory)
        memcpy(buffer, file->memory + (size_t)offset, size);
    else if (file->read(file->user, offset, buffer, size) != 0)
        fail(file, SEEDMASK_READ, "cannot read %zu bytes at offset %" PRIu64, size, offset);
    return !failed(file);
}

/* A window onto bytes of the data section. */
static void window_open(const seedmask *file, struct window *window, uint64_t offset, uint64_t bytes)
{
    window->next = file->data_begin + offset;
    window->end = window->next + bytes;
    window->at = window->have = 0;
}

static uint64_t window_left(const struct window *window)
{
    return window->end - window->next + (window->have - window->at);
}

/* The next `size` bytes, at most WINDOW; callers take pieces that never straddle two windows. */
static const unsigned char *window_take(seedmask *file, struct window *window, size_t size)
{
    const unsigned char *bytes;
    if (window->have - window->at < size) {
        uint64_t left = window->end - window->next;
        size_t part = left < WINDOW ? (size_t)left : WINDOW;
        if (part < size) {
            fail(file, SEEDMASK_PAYLOAD, "the payload ends early");
            return NULL;
        }
        if (!read_bytes(file, window->next, window->bytes, part))
            return NULL;
        window->next += part;
        window->at = 0;
        window->have = part;
    }
    bytes = window->bytes + window->at;
    window->at += size;
    return bytes;
}

/* ---- JSON (2, "Canonical JSON") ------------------------------------------------------------------------------ */

/*
 * Two passes: `walk` checks once that the whole manifest is one canonical value, MAX_DEPTH calls deep at most;
 * the readers after it then take the text apart without doubting its syntax. The text ends with NUL and is printable.
 */

enum { STRING_END = -1, MALFORMED = -2 };

static int32_t hex_digits(const char *at, int count)
{
    int32_t value = 0;
    for (int i = 0; i < count; ++i) {
        char digit = at[i];
        if (digit >= '0' && digit <= '9')
            value = value * 16 + (digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            value = value * 16 + (digit - 'a' + 10);
        else
            return MALFORMED; /* also at NUL, so nothing behind it is read */
    }
    return value;
}

/* The next code point inside a string, STRING_END after its closing quote, or MALFORMED. */
static int32_t next_code_point(const char **at)
{
    const char *p = (*at)++;
    int32_t high, low;
    if (*p == '"')
        return STRING_END;
    if (*p < 0x20 || *p > 0x7e) {
        *at = p;
        return MALFORMED;
    }
    if (*p != '\\')
        return *p;
    *at = p + 2;
    switch (p[1]) {
    case '"':
    case '\\':
        return p[1];
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'u':
        high = hex_digits(p + 2, 4);
        if (high >= 0x20 && high < 0x7f)
            break; /* printable, so not canonical */
        if (high < 0)
            break;
        *at = p + 6;
        if (high < 0xd800 || high > 0xdbff || p[6] != '\\' || p[7] != 'u')
            return high;
        low = hex_digits(p + 8, 4);
        if (low < 0xdc00 || low > 0xdfff)
            return high;
        *at = p + 12;
        return 0x10000 + (high - 0xd800) * 0x400 + (low - 0xdc00);
    default:
        break;
    }
    *at = p;
    return MALFORMED;
}

/* Characters that no text may have: controls, marks that reorder text, lone surrogates and the like. */
static bool is_forbidden(int32_t c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0xfeff || (c >= 0xd800 && c <= 0xdfff);
}

static size_t utf8_bytes(int32_t c)
{
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

/* Order of two well-formed strings by code points; both pointers at the opening quote. */
static int compare_strings(const char *a, const char *b)
{
    ++a;
    ++b;
    for (;;) {
        int32_t x = next_code_point(&a), y = next_code_point(&b);
        if (x != y)
            return x < y ? -1 : 1;
        if (x < 0)
            return 0;
    }
}

static void malformed(seedmask *file, const char *at, const char *expected)
{
    fail(file, SEEDMASK_JSON, "manifest, byte %zu: expected %s, got %s", (size_t)(at - file->manifest), expected,
         quote(file, at));
}

static const char *walk_string(seedmask *file, const char *at)
{
    const char *p = at + 1;
    if (*at != '"') {
        malformed(file, at, "a string");
        return at;
    }
    for (;;) {
        int32_t c = next_code_point(&p);
        if (c == STRING_END)
            return p;
        if (c == MALFORMED) {
            malformed(file, p, "a character in canonical form");
            return at;
        }
        if (is_forbidden(c)) {
            fail(file, SEEDMASK_JSON, "manifest, byte %zu: the character U+%04" PRIX32 " is not allowed",
                 (size_t)(p - file->manifest), (uint32_t)c);
            return at;
        }
    }
}

static const char *skip_digits(const char *at)
{
    while (*at >= '0' && *at <= '9')
        ++at;
    return at;
}

/* An unsigned integer without leading zeros, or false. */
static bool parse_integer(const char **at, uint64_t *value)
{
    const char *p = *at, *end = skip_digits(p);
    *value = 0;
    if (p == end || (*p == '0' && end - p > 1))
        return false;
    for (; p < end; ++p) {
        unsigned digit = (unsigned)(*p - '0');
        if (*value > (UINT64_MAX - digit) / 10)
            return false;
        *value = *value * 10 + digit;
    }
    *at = end;
    return true;
}

static const char *walk_number(seedmask *file, const char *at)
{
    const char *p = at + (*at == '-'), *whole = p, *end;
    uint64_t value;
    p = skip_digits(p);
    if (p == whole || (*whole == '0' && p - whole > 1)) {
        malformed(file, at, "a value");
        return at;
    }
    end = p;
    if (*p == '.') {
        end = skip_digits(p + 1);
        if (end == p + 1)
            malformed(file, at, "digits after the point");
    }
    if (*end == 'e') {
        const char *exponent = end + 1 + (end[1] == '-' || end[1] == '+');
        end = skip_digits(exponent);
        if (end == exponent)
            malformed(file, at, "digits of the exponent");
    }
    if (end == p) {
        if (*at == '-' && *whole == '0')
            malformed(file, at, "0 without a sign");
        else if (!parse_integer(&whole, &value))
            malformed(file, at, "an integer below 2**64");
    }
    return end;
}

static const char *walk(seedmask *file, const char *at, int depth)
{
    static const char *const WORDS[3] = {"null", "true", "false"};
    bool object = *at == '{';
    const char *key = NULL;
    if (*at == '"')
        return walk_string(file, at);
    if (!object && *at != '[') {
        for (int i = 0; i < 3; ++i) {
            if (strncmp(at, WORDS[i], strlen(WORDS[i])) == 0)
                return at + strlen(WORDS[i]);
        }
        return walk_number(file, at);
    }
    if (depth == MAX_DEPTH) {
        fail(file, SEEDMASK_JSON, "manifest, byte %zu: nested deeper than %d levels", (size_t)(at - file->manifest),
             MAX_DEPTH);
        return at;
    }
    ++at;
    if (*at == (object ? '}' : ']'))
        return at + 1;
    for (;;) {
        if (object) {
            const char *previous = key;
            key = at;
            at = walk_string(file, at);
            if (failed(file))
                return at;
            if (previous) {
                int order = compare_strings(previous, key);
                if (order >= 0)
                    fail(file, SEEDMASK_JSON, "manifest, byte %zu: %s: %s", (size_t)(key - file->manifest),
                         order == 0 ? "duplicate key" : "keys are not sorted", quote(file, key));
            }
            if (*at != ':')
                malformed(file, at, "a colon");
            if (failed(file))
                return at;
            ++at;
        }
        at = walk(file, at, depth + 1);
        if (failed(file))
            return at;
        if (*at == (object ? '}' : ']'))
            return at + 1;
        if (*at != ',') {
            malformed(file, at, object ? "a comma or }" : "a comma or ]");
            return at;
        }
        ++at;
    }
}

/*
 * Readers: the cursor stands at a value and is moved behind it. After an error they do nothing and return zero; loops
 * look at `failed`.
 */

static bool starts_with(const char *at, const char *text)
{
    return strncmp(at, text, strlen(text)) == 0;
}

static void read_text(seedmask *file, const char **at, const char *expected)
{
    if (failed(file))
        return;
    if (starts_with(*at, expected))
        *at += strlen(expected);
    else
        fail(file, SEEDMASK_MANIFEST, "expected %s, got %s", expected, quote(file, *at));
}

/* The key of the next field of an object; fields are in a fixed order, for keys are sorted. */
static void read_key(seedmask *file, const char **at, const char *key)
{
    size_t length = strlen(key);
    const char *p = *at;
    if (failed(file))
        return;
    if ((*p == '{' || *p == ',') && p[1] == '"' && strncmp(p + 2, key, length) == 0 && p[2 + length] == '"')
        *at = p + length + 4;
    else
        fail(file, SEEDMASK_MANIFEST, "expected the field \"%s\", got %s", key,
             quote(file, *p == '{' || *p == ',' ? p + 1 : p));
}

static uint64_t read_integer(seedmask *file, const char **at, const char *what)
{
    const char *begin = *at;
    uint64_t value = 0;
    if (!failed(file) && (!parse_integer(at, &value) || **at == '.' || **at == 'e'))
        fail(file, SEEDMASK_MANIFEST, "%s: expected an unsigned integer, got %s", what, quote(file, begin));
    return value;
}

/* The index of a string in a list of names. */
static uint8_t read_choice(seedmask *file, const char **at, const char *const *names, int count, const char *what,
                           seedmask_code code)
{
    if (failed(file))
        return 0;
    for (int i = 0; i < count && **at == '"'; ++i) {
        size_t length = strlen(names[i]);
        if (strncmp(*at + 1, names[i], length) == 0 && (*at)[length + 1] == '"') {
            *at += length + 2;
            return (uint8_t)i;
        }
    }
    fail(file, code, "%s: this decoder does not know %s", what, quote(file, *at));
    return 0;
}

/* Lower-case hexadecimal digits as a string; returns where they are. */
static const char *read_hex(seedmask *file, const char **at, int count, const char *what)
{
    const char *digits = *at + 1;
    if (failed(file))
        return digits;
    if (**at == '"') {
        for (int i = 0; hex_digits(digits + i, 1) >= 0; ++i) {
            if (i + 1 == count && digits[count] == '"') {
                *at = digits + count + 1;
                return digits;
            }
        }
    }
    fail(file, SEEDMASK_MANIFEST, "%s: expected %d hexadecimal digits, got %s", what, count, quote(file, *at));
    return digits;
}

static uint64_t hex_value(const seedmask *file, const char *digits, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count && !failed(file); ++i)
        value = value << 4 | (uint64_t)hex_digits(digits + i, 1);
    return value;
}

/* A name of 1 to 512 bytes of UTF-8; the walk has seen to its characters. */
static const char *read_name(seedmask *file, const char **at)
{
    const char *name = *at;
    size_t bytes = 0;
    if (failed(file))
        return name;
    if (*name != '"') {
        fail(file, SEEDMASK_MANIFEST, "name: expected a string, got %s", quote(file, name));
        return name;
    }
    for (++*at;;) {
        int32_t c = next_code_point(at);
        if (c < 0)
            break;
        bytes += utf8_bytes(c);
    }
    if (bytes < 1 || bytes > SEEDMASK_MAX_NAME)
        fail(file, SEEDMASK_MANIFEST, "name: expected 1 to %d bytes, got %zu", SEEDMASK_MAX_NAME, bytes);
    return name;
}

/* A shape: returns the product, at most `limit`. */
static uint64_t read_shape(seedmask *file, const char **at, uint64_t least, uint64_t limit)
{
    const char *shape = *at;
    uint64_t product = 1;
    bool empty = false, huge = false;
    int rank = 0;
    read_text(file, at, "[");
    while (!failed(file) && **at != ']') {
        uint64_t length;
        if (rank > 0)
            read_text(file, at, ",");
        length = read_integer(file, at, "shape");
        if (failed(file))
            break;
        if (length < least)
            fail(file, SEEDMASK_MANIFEST, "shape: expected lengths of at least %" PRIu64 ", got %s", least,
                 quote(file, shape));
        if (++rank > SEEDMASK_MAX_RANK)
            fail(file, SEEDMASK_MANIFEST, "shape: expected at most %d dimensions", SEEDMASK_MAX_RANK);
        if (length == 0)
            empty = true;
        else if (product > limit / length)
            huge = true;
        else
            product *= length;
    }
    read_text(file, at, "]");
    if (huge && !empty)
        fail(file, SEEDMASK_LIMIT, "shape: expected a product of at most %" PRIu64 ", got %s", limit,
             quote(file, shape));
    return empty ? 0 : product;
}

static unsigned shape_of(const char *at, uint64_t shape[SEEDMASK_MAX_RANK])
{
    unsigned rank = 0;
    for (++at; *at != ']' && rank < SEEDMASK_MAX_RANK; at += *at == ',')
        parse_integer(&at, &shape[rank++]);
    return rank;
}

static void name_of(const char *at, char name[SEEDMASK_MAX_NAME + 1])
{
    size_t used = 0;
    for (++at;;) {
        int32_t c = next_code_point(&at);
        size_t bytes = utf8_bytes(c);
        if (c < 0 || used + bytes > SEEDMASK_MAX_NAME)
            break;
        if (bytes == 1) {
            name[used++] = (char)c;
        } else {
            static const unsigned char LEAD[5] = {0, 0, 0xc0, 0xe0, 0xf0};
            unsigned char encoded[4];
            for (size_t i = bytes - 1; i > 0; --i, c >>= 6)
                encoded[i] = (unsigned char)(0x80 | (c & 0x3f));
            encoded[0] = (unsigned char)(LEAD[bytes] | c);
            memcpy(name + used, encoded, bytes);
            used += bytes;
        }
    }
    name[used] = '\0';
}

/* ---- Entropy coded rows (1.4, 1.5) --------------------------------------------------------------------------- */

static uint64_t read_varint(seedmask *file, struct window *window, uint64_t least, uint64_t most, const char *what)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 6; ++i) {
        const unsigned char *byte = window_take(file, window, 1);
        if (!byte)
            return 0;
        value |= (uint64_t)(*byte & 127) << 7 * i;
        if (*byte < 128) {
            if (*byte == 0 && i > 0)
                fail(file, SEEDMASK_PAYLOAD, "%s: the number is not in its shortest form", what);
            else if (value < least || value > most)
                fail(file, SEEDMASK_PAYLOAD, "%s: expected %" PRIu64 " to %" PRIu64 ", got %" PRIu64, what, least, most,
                     value);
            return value;
        }
    }
    fail(file, SEEDMASK_PAYLOAD, "%s: expected a number of at most 6 bytes", what);
    return 0;
}

static unsigned ones_in(unsigned byte)
{
    unsigned ones = 0;
    for (; byte; byte >>= 1)
        ones += byte & 1;
    return ones;
}

/* Which symbols the classes have: `order` and `first_symbol`. */
static void set_classes(struct row *row, unsigned gap_shift)
{
    unsigned position = 0;
    row->classes = 0;
    if (row->coding == RANS && row->width == 1) { /* bytes by their number of ones */
        for (unsigned ones = 0; ones <= 8; ++ones) {
            row->first_symbol[row->classes++] = (uint16_t)position;
            for (unsigned byte = 0; byte < 256; ++byte) {
                if (ones_in(byte) == ones)
                    row->order[position++] = (uint8_t)byte;
            }
        }
    } else { /* symbols in their own order; runs of 2**gap_shift share a class, but 255 has its own */
        unsigned symbols = row->coding == RANS ? 1U << row->width : 256;
        for (; position < symbols; ++position) {
            row->order[position] = (uint8_t)position;
            if (position % (1U << gap_shift) == 0 || (row->coding == GAPS && position == 255))
                row->first_symbol[row->classes++] = (uint16_t)position;
        }
    }
    row->first_symbol[row->classes] = (uint16_t)position;
}

/* Read the head of an entropy coded payload, and find its parts. */
static void open_symbols(seedmask *file, struct row *row, uint64_t count)
{
    unsigned gap_shift = 0, class_of_slot = 0;
    uint64_t lanes, begin, left;
    uint32_t slots = 0;
    row->symbols = count;
    if (row->coding == GAPS) {
        const unsigned char *shift = window_take(file, &row->payload, 1);
        if (!shift)
            return;
        if (*shift > 6) {
            fail(file, SEEDMASK_PAYLOAD, "k: expected 0 to 6, got %u", (unsigned)*shift);
            return;
        }
        gap_shift = *shift;
        row->symbols = read_varint(file, &row->payload, 1, count, "number of symbols");
    }
    set_classes(row, gap_shift);
    row->lane_size = (uint32_t)read_varint(file, &row->payload, 1, MAX_LANE, "symbols of a lane");
    for (unsigned i = 0; i < row->classes && !failed(file); ++i) {
        row->frequency[i] = (uint32_t)read_varint(file, &row->payload, 0, SLOTS, "frequency");
        row->first_slot[i] = slots;
        /* at most 256 symbols of at most 65536 slots */
        slots += row->frequency[i] * (uint32_t)(row->first_symbol[i + 1] - row->first_symbol[i]);
    }
    if (failed(file))
        return;
    if (slots != SLOTS) {
        fail(file, SEEDMASK_PAYLOAD, "frequencies: expected a sum of 65536, got %" PRIu32, slots);
        return;
    }
    row->first_slot[row->classes] = SLOTS;
    for (unsigned i = 0; i < 256; ++i) {
        while (row->first_slot[class_of_slot + 1] <= 256 * i)
            ++class_of_slot;
        row->class_of_slot[i] = (uint8_t)class_of_slot;
    }
    row->class_of_slot[256] = (uint8_t)(row->classes - 1);

    lanes = row->symbols / row->lane_size + (row->symbols % row->lane_size > 0);
    left = window_left(&row->payload);
    if (lanes > left / 6 || (left - 6 * lanes) % 2 != 0) {
        fail(file, SEEDMASK_PAYLOAD, "expected 6 bytes for each of %" PRIu64 " lanes and 2 a word, got %" PRIu64, lanes,
             left);
        return;
    }
    begin = row->payload.end - left - file->data_begin;
    window_open(file, &row->states, begin, 4 * lanes);
    window_open(file, &row->lengths, begin + 4 * lanes, 2 * lanes);
    window_open(file, &row->payload, begin + 6 * lanes, left - 6 * lanes);
}

static bool open_lane(seedmask *file, struct row *row)
{
    const unsigned char *state = window_take(file, &row->states, 4);
    const unsigned char *length = state ? window_take(file, &row->lengths, 2) : NULL;
    if (!length)
        return false;
    row->x = (uint32_t)state[0] | (uint32_t)state[1] << 8 | (uint32_t)state[2] << 16 | (uint32_t)state[3] << 24;
    row->lane_words = (uint32_t)length[0] | (uint32_t)length[1] << 8;
    row->lane_symbols = row->symbols < row->lane_size ? (uint32_t)row->symbols : row->lane_size;
    row->symbols -= row->lane_symbols;
    ++row->lane;
    if (row->x < SLOTS)
        fail(file, SEEDMASK_PAYLOAD, "%s, lane %" PRIu64 ": expected a first state of at least 65536, got %" PRIu32,
             row->what, row->lane - 1, row->x);
    else if (2 * (uint64_t)row->lane_words > window_left(&row->payload))
        fail(file, SEEDMASK_PAYLOAD, "%s, lane %" PRIu64 ": expected %" PRIu32 " words, got %" PRIu64 " bytes",
             row->what, row->lane - 1, row->lane_words, window_left(&row->payload));
    return !failed(file);
}

/* The class of a slot: the last one that begins at or before it. */
static unsigned find_class(const struct row *row, uint32_t slot)
{
    unsigned low = row->class_of_slot[slot >> 8], high = row->class_of_slot[(slot >> 8) + 1];
    while (low < high) {
        unsigned middle = (low + high + 1) / 2;
        if (row->first_slot[middle] <= slot)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Decode the next symbols. The caller never asks for more than there are. */
static bool next_symbols(seedmask *file, struct row *row, uint8_t *symbols, size_t count)
{
    while (count > 0) {
        uint32_t x, run;
        if (row->lane_symbols == 0 && !open_lane(file, row))
            return false;
        run = count < row->lane_symbols ? (uint32_t)count : row->lane_symbols;
        x = row->x;
        for (uint32_t i = 0; i < run; ++i) {
            uint32_t slot = x % SLOTS;
            unsigned class = find_class(row, slot);
            uint32_t frequency = row->frequency[class], offset = slot - row->first_slot[class];
            uint32_t member = offset < frequency ? 0 : offset / frequency;
            symbols[i] = row->order[row->first_symbol[class] + member];
            x = frequency * (x / SLOTS) + (offset - member * frequency);
            if (x < SLOTS) {
                const unsigned char *word;
                if (row->lane_words == 0) {
                    fail(file, SEEDMASK_PAYLOAD, "%s, lane %" PRIu64 ": there are too few words", row->what,
                         row->lane - 1);
                    return false;
                }
                word = window_take(file, &row->payload, 2);
                if (!word)
                    return false;
                --row->lane_words;
                x = x << 16 | (uint32_t)word[0] | (uint32_t)word[1] << 8;
            }
        }
        row->x = x;
        row->lane_symbols -= run;
        symbols += run;
        count -= run;
        if (row->lane_symbols == 0 && (x != SLOTS || row->lane_words != 0)) {
            fail(file, SEEDMASK_PAYLOAD,
                 "%s, lane %" PRIu64 ": expected the last state 65536 and no words left, got %" PRIu32 " and %" PRIu32,
                 row->what, row->lane - 1, x, row->lane_words);
            return false;
        }
    }
    return true;
}

/* ---- Rows of values (1.3) ------------------------------------------------------------------------------------ */

static bool row_open(seedmask *file, struct row *row, const char *what, const uint64_t place[2], enum coding coding,
                     unsigned width, uint64_t values)
{
    size_t place_end = strlen(file->place);
    snprintf(file->place + place_end, sizeof file->place - place_end, ", %s", what);
    row->what = what;
    row->width = width;
    row->coding = coding;
    row->at = row->have = 0;
    row->bits = row->bit_count = 0;
    row->bytes_left = 0;
    row->symbols = row->lane = 0;
    row->lane_symbols = row->lane_words = row->zeros = 0;
    row->uncovered = values;
    row->one = false;
    window_open(file, &row->payload, place[0], place[1]);
    /* a value has at most 8 bits, and there are at most 2**36 */
    if (coding == RAW || (coding == RANS && width == 1))
        row->bytes_left = values / 8 * width + (values % 8 * width + 7) / 8;
    if (coding == RAW) {
        if (place[1] != row->bytes_left)
            fail(file, SEEDMASK_PAYLOAD, "expected %" PRIu64 " bytes, got %" PRIu64, row->bytes_left, place[1]);
    } else {
        open_symbols(file, row, width == 1 && coding == RANS ? row->bytes_left : values);
    }
    file->place[place_end] = '\0'; /* later messages name the row themselves, with the lane */
    return !failed(file);
}

/* Have another byte of `raw`, or of `rans` with width 1; there is one, for rows are as long as their values. */
static bool next_byte(seedmask *file, struct row *row, unsigned *byte)
{
    if (row->at == row->have) {
        size_t part = row->bytes_left < EXPANDED ? (size_t)row->bytes_left : EXPANDED;
        if (row->coding == RAW) {
            for (size_t i = 0; i < part; ++i) {
                const unsigned char *next = window_take(file, &row->payload, 1);
                if (!next)
                    return false;
                row->bytes[i] = *next;
            }
        } else if (!next_symbols(file, row, row->bytes, part)) {
            return false;
        }
        row->bytes_left -= part;
        row->at = 0;
        row->have = part;
    }
    *byte = row->bytes[row->at++];
    return true;
}

static bool next_from_bytes(seedmask *file, struct row *row, uint8_t *values, size_t count)
{
    unsigned mask = (1U << row->width) - 1;
    for (size_t i = 0; i < count; ++i) {
        if (row->bit_count < row->width) {
            unsigned byte;
            if (!next_byte(file, row, &byte))
                return false;
            row->bits |= byte << row->bit_count;
            row->bit_count += 8;
        }
        values[i] = (uint8_t)(row->bits & mask);
        row->bits >>= row->width;
        row->bit_count -= row->width;
    }
    return true;
}

static bool next_from_gaps(seedmask *file, struct row *row, uint8_t *values, size_t count)
{
    memset(values, 0, count);
    for (size_t i = 0; i < count;) {
        if (row->zeros > 0) {
            uint32_t run = count - i < row->zeros ? (uint32_t)(count - i) : row->zeros;
            row->zeros -= run;
            i += run;
        } else if (row->one) {
            row->one = false;
            values[i++] = 1;
        } else if (row->symbols == 0 && row->lane_symbols == 0) {
            break; /* zeros after the last one */
        } else {
            uint8_t symbol;
            uint32_t length;
            if (!next_symbols(file, row, &symbol, 1))
                return false;
            row->one = symbol < 255;
            row->zeros = symbol;
            length = row->zeros + row->one;
            if (length > row->uncovered) {
                fail(file, SEEDMASK_PAYLOAD, "%s: gaps go %" PRIu64 " bits beyond the end", row->what,
                     length - row->uncovered);
                return false;
            }
            row->uncovered -= length;
            if (!row->one && row->symbols == 0 && row->lane_symbols == 0) {
                fail(file, SEEDMASK_PAYLOAD, "%s: the last symbol is 255", row->what);
                return false;
            }
        }
    }
    return true;
}

/* The next values, one a byte. The caller never asks for more than there are. */
static bool row_next(seedmask *file, struct row *row, uint8_t *values, size_t count)
{
    if (row->coding == GAPS)
        return next_from_gaps(file, row, values, count);
    if (row->coding == RANS && row->width > 1)
        return next_symbols(file, row, values, count);
    return next_from_bytes(file, row, values, count);
}

/* After the last value: nothing may be left over. */
static bool row_close(seedmask *file, struct row *row)
{
    if (row->bits != 0)
        fail(file, SEEDMASK_PAYLOAD, "%s: expected unused bits of 0", row->what);
    else if (row->symbols > 0 || row->lane_symbols > 0)
        fail(file, SEEDMASK_PAYLOAD, "%s: %" PRIu64 " symbols are left over", row->what,
             row->symbols + row->lane_symbols);
    else if (window_left(&row->payload) > 0)
        fail(file, SEEDMASK_PAYLOAD, "%s: %" PRIu64 " bytes are left over", row->what, window_left(&row->payload));
    return !failed(file);
}

/* ---- Manifest (3) -------------------------------------------------------------------------------------------- */

static const char *const FIELDS[] = {"architecture", "classes", "digests",           "format_version",
                                     "generator",    "input",   "recipe",            "required_features",
                                     "seed",         "state",   "tensors"};
enum {
    ARCHITECTURE,
    CLASSES,
    DIGESTS,
    FORMAT_VERSION,
    GENERATOR,
    INPUT,
    RECIPE,
    REQUIRED_FEATURES,
    SEED,
    STATE,
    TENSORS,
    FIELD_COUNT
};

/* Where the values of the top-level fields are; NULL for a missing one. Returns the first unknown field, or NULL. */
static const char *find_fields(seedmask *file, const char *values[FIELD_COUNT])
{
    const char *at = file->manifest, *unknown = NULL;
    memset((void *)values, 0, FIELD_COUNT * sizeof *values);
    while (*at != '}' && at[1] != '}') { /* at the brace or a comma */
        const char *key = at + 1;
        int field = 0;
        at = walk_string(file, key) + 1;
        while (field < FIELD_COUNT &&
               !(starts_with(key + 1, FIELDS[field]) && key[1 + strlen(FIELDS[field])] == '"'))
            ++field;
        if (field < FIELD_COUNT)
            values[field] = at;
        else if (!unknown)
            unknown = key;
        at = walk(file, at, 1);
    }
    return unknown;
}

static void check_version(seedmask *file, const char *at)
{
    uint64_t version;
    if (!at) {
        fail(file, SEEDMASK_MANIFEST, "manifest: expected the field \"format_version\"");
        return;
    }
    version = read_integer(file, &at, "format_version");
    if (version > 1)
        fail(file, SEEDMASK_VERSION, "format_version: expected 1, got %" PRIu64 ", from a newer version", version);
    else if (version < 1)
        fail(file, SEEDMASK_MANIFEST, "format_version: expected 1, got 0");
}

/* Which features the file says it uses. */
static void read_features(seedmask *file, const char *at, bool used[FEATURES])
{
    int least = 0;
    if (failed(file))
        return;
    if (!at) {
        fail(file, SEEDMASK_MANIFEST, "manifest: expected the field \"required_features\"");
        return;
    }
    read_text(file, &at, "[");
    while (!failed(file) && *at != ']') {
        uint8_t feature;
        at += *at == ',';
        feature = read_choice(file, &at, FEATURE_NAMES, FEATURES, "required_features", SEEDMASK_FEATURE);
        if (failed(file))
            return;
        if (feature < least)
            fail(file, SEEDMASK_MANIFEST, "required_features: expected sorted, unique names");
        used[feature] = true;
        least = feature + 1;
    }
}

static void check_digest(seedmask *file, struct sha256 *sha, const char *expected, const char *what)
{
    unsigned char digest[32];
    char text[65];
    sha256_finish(sha, digest);
    to_hex(digest, text);
    if (memcmp(text, expected, 64) != 0)
        fail(file, SEEDMASK_DIGEST, "%s: expected SHA-256 %.16s..., got %.16s...", what, expected, text);
}

/* Returns where the digits of the digest of weights are. */
static const char *read_digests(seedmask *file, const char *at)
{
    const char *manifest, *weights;
    struct sha256 sha;
    char zeros[64];
    read_key(file, &at, "manifest");
    manifest = read_hex(file, &at, 64, "digests.manifest");
    read_key(file, &at, "payload");
    file->payload_digest = read_hex(file, &at, 64, "digests.payload");
    read_key(file, &at, "weights");
    weights = read_hex(file, &at, 64, "digests.weights");
    read_text(file, &at, "}");
    if (failed(file))
        return weights;
    memset(zeros, '0', sizeof zeros);
    sha256_start(&sha);
    sha256_add(&sha, file->manifest, (size_t)(manifest - file->manifest));
    sha256_add(&sha, zeros, sizeof zeros);
    sha256_add(&sha, manifest + 64, file->manifest_bytes - 64 - (size_t)(manifest - file->manifest));
    check_digest(file, &sha, manifest, "manifest");
    return weights;
}

/* The length of a list. */
static size_t count_items(seedmask *file, const char *at, const char *what)
{
    size_t count = 0;
    if (failed(file))
        return 0;
    if (*at != '[') {
        fail(file, SEEDMASK_MANIFEST, "%s: expected a list, got %s", what, quote(file, at));
        return 0;
    }
    while (*at != ']' && at[1] != ']') { /* at the bracket or a comma */
        at = walk(file, at + 1, 2);
        ++count;
    }
    return count;
}

static bool is_finite(uint32_t bits)
{
    return (bits & 0x7f800000) != 0x7f800000;
}

static void check_scale(seedmask *file, const struct tensor *tensor)
{
    uint32_t exponent = tensor->scale >> 23;
    int largest = tensor->codebook == SIGNED_CONSTANT && tensor->coats_width == 0 ? 1 : 127;
    if (exponent < 1 || exponent > 254 || !is_finite(product_bits(tensor->scale, largest)))
        fail(file, SEEDMASK_MANIFEST, "scale: expected positive, normal and finite, times %d too, got %08" PRIx32,
             largest, tensor->scale);
}

static void check_log(seedmask *file, const struct tensor *tensor)
{
    bool right = tensor->log_kind == NO_LOG  ? tensor->log_width == 0 && tensor->log_coding == RAW
                 : tensor->log_kind == FLIPS ? tensor->log_width == 1
                                             : tensor->log_width >= 1 && tensor->log_width <= 8;
    if (!right || (tensor->log_kind == NO_LOG && tensor->log_bytes > 0))
        fail(file, SEEDMASK_MANIFEST, "log: %u bits, coding %s and %" PRIu64 " bytes do not go with the kind %s",
             (unsigned)tensor->log_width, CODING_NAMES[tensor->log_coding], tensor->log_bytes,
             LOG_NAMES[tensor->log_kind]);
    if (tensor->log_kind == FLIPS && tensor->codebook != SIGNED_CONSTANT)
        fail(file, SEEDMASK_MANIFEST, "log: flips do not go with the codebook %s", CODEBOOK_NAMES[tensor->codebook]);
    if (tensor->log_kind == DELTAS && tensor->codebook == SIGNED_CONSTANT)
        fail(file, SEEDMASK_MANIFEST, "log: deltas do not go with the codebook %s", CODEBOOK_NAMES[tensor->codebook]);
    if (tensor->log_coding == GAPS && tensor->log_width != 1)
        fail(file, SEEDMASK_MANIFEST, "log: gaps have a width of 1, got %u", (unsigned)tensor->log_width);
}

/* Whether the next field of an object has this key. */
static bool has_key(const seedmask *file, const char *at, const char *key)
{
    return !failed(file) && (*at == '{' || *at == ',') && at[1] == '"' && starts_with(at + 2, key) &&
           at[2 + strlen(key)] == '"';
}

static void read_coats(seedmask *file, const char **at, struct tensor *tensor)
{
    uint64_t width;
    read_key(file, at, "coats");
    read_key(file, at, "bytes");
    tensor->coats_bytes = read_integer(file, at, "coats.bytes");
    read_key(file, at, "coding");
    tensor->coats_coding = read_choice(file, at, CODING_NAMES, CODINGS, "coats.coding", SEEDMASK_FEATURE);
    read_key(file, at, "width");
    width = read_integer(file, at, "coats.width");
    read_text(file, at, "}");
    if (!failed(file) && (width < 1 || width > 7))
        fail(file, SEEDMASK_MANIFEST, "coats.width: expected 1 to 7, got %" PRIu64, width);
    if (tensor->coats_coding == GAPS && width != 1)
        fail(file, SEEDMASK_MANIFEST, "coats: gaps have a width of 1, got %" PRIu64, width);
    tensor->coats_width = (uint8_t)(width & 7);
}

static void read_frozen(seedmask *file, const char **at, struct tensor *tensor)
{
    uint64_t kept, pruned;
    read_key(file, at, "frozen");
    read_key(file, at, "free");
    tensor->free = read_integer(file, at, "frozen.free");
    read_key(file, at, "kept");
    kept = read_integer(file, at, "frozen.kept");
    read_key(file, at, "pruned");
    pruned = read_integer(file, at, "frozen.pruned");
    read_text(file, at, "}");
    if (failed(file))
        return;
    if (kept > 65535 || pruned > 65535 || kept + pruned < 1 || kept + pruned > 65536) {
        fail(file, SEEDMASK_MANIFEST,
             "frozen: expected thresholds of at most 65535 that sum to 1 to 65536, got %" PRIu64 " and %" PRIu64,
             pruned, kept);
        return;
    }
    tensor->fixed_pruned = (uint32_t)pruned;
    tensor->fixed_end = (uint32_t)(pruned + kept);
}

static void read_values(seedmask *file, const char **at, struct tensor *tensor)
{
    read_key(file, at, "values");
    read_key(file, at, "bytes");
    tensor->values_bytes = read_integer(file, at, "values.bytes");
    read_key(file, at, "coding");
    tensor->values_coding = read_choice(file, at, CODING_NAMES, CODINGS, "values.coding", SEEDMASK_FEATURE);
    read_key(file, at, "dtype");
    tensor->values_kind = read_choice(file, at, VALUE_NAMES, VALUE_KINDS, "values.dtype", SEEDMASK_MANIFEST);
    read_text(file, at, "}");
    if (failed(file))
        return;
    if (tensor->log_kind != NO_LOG || tensor->coats_width > 0)
        fail(file, SEEDMASK_MANIFEST, "values: expected neither a log nor coats beside them");
    if (tensor->values_coding == GAPS || (tensor->values_coding != RAW && tensor->values_kind != VALUES_I8))
        fail(file, SEEDMASK_MANIFEST, "values: %s does not go with %s", CODING_NAMES[tensor->values_coding],
             VALUE_NAMES[tensor->values_kind]);
    if (tensor->values_kind != VALUES_I8 && tensor->kept <= tensor->weights &&
        tensor->values_bytes != tensor->kept * VALUE_BYTES[tensor->values_kind])
        fail(file, SEEDMASK_MANIFEST, "values: expected %" PRIu64 " bytes, got %" PRIu64,
             tensor->kept * VALUE_BYTES[tensor->values_kind], tensor->values_bytes);
}

static void read_tensor(seedmask *file, const char **at, struct tensor *tensor)
{
    uint64_t width;
    const char *shape;
    if (has_key(file, *at, "coats"))
        read_coats(file, at, tensor);
    read_key(file, at, "codebook");
    tensor->codebook = read_choice(file, at, CODEBOOK_NAMES, CODEBOOKS, "codebook", SEEDMASK_MANIFEST);
    if (tensor->coats_width > 0 && tensor->codebook != SIGNED_CONSTANT)
        fail(file, SEEDMASK_MANIFEST, "coats: expected a codebook of two values, got %s",
             CODEBOOK_NAMES[tensor->codebook]);
    if (has_key(file, *at, "frozen"))
        read_frozen(file, at, tensor);
    read_key(file, at, "kept");
    tensor->kept = read_integer(file, at, "kept");
    read_key(file, at, "log");
    read_key(file, at, "bytes");
    tensor->log_bytes = read_integer(file, at, "log.bytes");
    read_key(file, at, "coding");
    tensor->log_coding = read_choice(file, at, CODING_NAMES, CODINGS, "log.coding", SEEDMASK_FEATURE);
    read_key(file, at, "kind");
    tensor->log_kind = read_choice(file, at, LOG_NAMES, LOG_KINDS, "log.kind", SEEDMASK_MANIFEST);
    read_key(file, at, "width");
    width = read_integer(file, at, "log.width");
    tensor->log_width = width > 8 ? UINT8_MAX : (uint8_t)width;
    read_text(file, at, "}");
    read_key(file, at, "mask");
    read_key(file, at, "bytes");
    tensor->mask_bytes = read_integer(file, at, "mask.bytes");
    read_key(file, at, "coding");
    tensor->mask_coding = read_choice(file, at, CODING_NAMES, CODINGS, "mask.coding", SEEDMASK_FEATURE);
    read_text(file, at, "}");
    read_key(file, at, "name");
    tensor->name = read_name(file, at);
    read_key(file, at, "scale");
    tensor->scale = (uint32_t)hex_value(file, read_hex(file, at, 8, "scale"), 8);
    if (!file->expanded) {
        read_key(file, at, "sha256");
        tensor->sha256 = read_hex(file, at, 64, "sha256");
    }
    read_key(file, at, "shape");
    tensor->shape = *at;
    tensor->weights = read_shape(file, at, 1, MAX_TENSOR);
    shape = tensor->shape + 1;
    if (failed(file) || !parse_integer(&shape, &tensor->rows))
        tensor->rows = 1; /* a scalar */
    tensor->values_kind = NO_VALUES;
    if (has_key(file, *at, "values"))
        read_values(file, at, tensor);
    read_text(file, at, "}");
    if (failed(file))
        return;
    if (tensor->fixed_end == 0)
        tensor->free = tensor->weights;
    else if (tensor->weights > MAX_FROZEN)
        fail(file, SEEDMASK_LIMIT, "frozen: expected at most 2**35 weights, got %" PRIu64, tensor->weights);
    else if (tensor->free > tensor->weights)
        fail(file, SEEDMASK_MANIFEST, "frozen: expected at most %" PRIu64 " free weights, got %" PRIu64,
             tensor->weights, tensor->free);
    if (tensor->kept > tensor->weights)
        fail(file, SEEDMASK_MANIFEST, "kept: expected at most %" PRIu64 ", got %" PRIu64, tensor->weights,
             tensor->kept);
    check_scale(file, tensor);
    check_log(file, tensor);
}

static void read_state(seedmask *file, const char **at, struct state *state)
{
    read_key(file, at, "dtype");
    state->dtype = read_choice(file, at, DTYPE_NAMES, DTYPES, "dtype", SEEDMASK_MANIFEST);
    read_key(file, at, "name");
    state->name = read_name(file, at);
    read_key(file, at, "shape");
    state->shape = *at;
    state->bytes = read_shape(file, at, 0, UINT64_MAX / 8) * DTYPE_BYTES[state->dtype];
    if (has_key(file, *at, "value")) {
        read_key(file, at, "value");
        state->value = read_hex(file, at, 2 * DTYPE_BYTES[state->dtype], "value");
    }
    read_text(file, at, "}");
    if (failed(file) || !state->value)
        return;
    if (state->bytes < 2 * DTYPE_BYTES[state->dtype])
        fail(file, SEEDMASK_MANIFEST, "value: expected it of a tensor of 2 items or more");
    else if (state->dtype == 0 && hex_value(file, state->value, 2) > 1)
        fail(file, SEEDMASK_MANIFEST, "value: expected 00 or 01 in a BOOL tensor");
}

/* Bytes of a state tensor in the data section. */
static uint64_t stored_bytes(const struct state *state)
{
    return state->value ? 0 : state->bytes;
}

/* Sizes must add up to the data section; an unsigned sum that never passes it cannot overflow. */
static void add_bytes(seedmask *file, uint64_t *total, uint64_t bytes)
{
    if (failed(file))
        return;
    if (bytes > file->data_bytes - *total)
        fail(file, SEEDMASK_CONTAINER, "truncated: expected %" PRIu64 " bytes of data, got %" PRIu64, bytes,
             file->data_bytes - *total);
    else
        *total += bytes;
}

static void note_coding(bool used[FEATURES], uint8_t coding)
{
    used[FEATURE_RANS] |= coding == RANS;
    used[FEATURE_GAPS] |= coding == GAPS;
}

static void note_features(const struct tensor *tensor, bool used[FEATURES])
{
    note_coding(used, tensor->mask_coding);
    note_coding(used, tensor->log_coding);
    note_coding(used, tensor->coats_coding);
    note_coding(used, tensor->values_coding);
    used[FEATURE_COATS] |= tensor->coats_width > 0;
    used[FEATURE_DELTAS] |= tensor->log_kind == DELTAS;
    used[FEATURE_FROZEN] |= tensor->fixed_end > 0;
    used[FEATURE_VALUES] |= tensor->values_kind != NO_VALUES;
}

/* Whether the network takes texts (5): its input has a vocabulary. */
static bool takes_texts(seedmask *file, const char *at)
{
    bool found = false;
    while (!found && (*at == '{' || *at == ',') && at[1] != '}') {
        found = has_key(file, at, "vocabulary");
        at = walk(file, walk_string(file, at + 1) + 1, 2);
    }
    return found;
}

/* What a small file makes large: `total` never passes the limit. */
static void add_weights(seedmask *file, uint64_t *total, uint64_t weights, uint64_t max_weights)
{
    if (failed(file))
        return;
    if (weights > max_weights - *total)
        fail(file, SEEDMASK_LIMIT, "expected at most %" PRIu64 " weights in all, got %" PRIu64 " here", max_weights,
             weights);
    else
        *total += weights;
}

static void read_tensors(seedmask *file, const char *at, uint64_t *total, uint64_t max_weights, bool used[FEATURES],
                         const char *weights_digest)
{
    struct sha256 sha;
    sha256_start(&sha);
    for (size_t i = 0; i < file->tensor_count && !failed(file); ++i) {
        struct tensor *tensor = &file->tensors[i];
        set_place(file, "tensors", i, NULL);
        ++at; /* bracket or comma */
        read_tensor(file, &at, tensor);
        add_weights(file, total, tensor->weights, max_weights);
        if (failed(file))
            break;
        note_features(tensor, used);
        for (int j = 0; tensor->sha256 && j < 32; ++j) {
            unsigned char byte = (unsigned char)hex_value(file, tensor->sha256 + 2 * j, 2);
            sha256_add(&sha, &byte, 1);
        }
    }
    set_place(file, NULL, 0, NULL);
    if (!failed(file) && !file->expanded)
        check_digest(file, &sha, weights_digest, "weights");
}

static void check_features(seedmask *file, const bool used[FEATURES], const bool features[FEATURES])
{
    for (int i = 0; i < FEATURES; ++i) {
        if (used[i] != features[i])
            fail(file, SEEDMASK_MANIFEST, "required_features: expected %s%s, for the file %s", features[i] ? "no " : "",
                 FEATURE_NAMES[i], used[i] ? "uses it" : "does not use it");
    }
}

/* A tensor of one value counts as a weight for each 4 bytes. */
static void read_states(seedmask *file, const char *at, uint64_t *total, uint64_t max_weights)
{
    for (size_t i = 0; i < file->state_count && !failed(file); ++i) {
        set_place(file, "state", i, NULL);
        ++at;
        read_state(file, &at, &file->states[i]);
        if (file->states[i].value) {
            add_weights(file, total, (file->states[i].bytes + 3) / 4, max_weights);
            file->constants = true;
        }
        if (!failed(file) && i > 0 && compare_strings(file->states[i - 1].name, file->states[i].name) >= 0)
            fail(file, SEEDMASK_MANIFEST, "expected names that are unique and sorted, got %s",
                 quote(file, file->states[i].name));
    }
    set_place(file, NULL, 0, NULL);
}

/* ---- Layout (2, "Order") ------------------------------------------------------------------------------------- */

/* Heap sort: no recursion, and no order of names makes it slow. */
static void sift_down(const struct tensor *tensors, size_t *order, size_t root, size_t count)
{
    while (2 * root + 1 < count) {
        size_t child = 2 * root + 1, moved = order[root];
        if (child + 1 < count && compare_strings(tensors[order[child]].name, tensors[order[child + 1]].name) < 0)
            ++child;
        if (compare_strings(tensors[moved].name, tensors[order[child]].name) >= 0)
            return;
        order[root] = order[child];
        order[child] = moved;
        root = child;
    }
}

static void sort_by_name(const struct tensor *tensors, size_t *order, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        order[i] = i;
    for (size_t i = count / 2; i > 0; --i)
        sift_down(tensors, order, i - 1, count);
    for (size_t i = count; i > 1; --i) {
        size_t largest = order[0];
        order[0] = order[i - 1];
        order[i - 1] = largest;
        sift_down(tensors, order, 0, i - 1);
    }
}

static void check_unique(seedmask *file, const size_t *order)
{
    size_t state = 0;
    for (size_t i = 0; i < file->tensor_count; ++i) {
        const char *name = file->tensors[order[i]].name;
        bool twice = i > 0 && compare_strings(file->tensors[order[i - 1]].name, name) == 0;
        while (state < file->state_count && compare_strings(file->states[state].name, name) < 0)
            ++state;
        if (twice || (state < file->state_count && compare_strings(file->states[state].name, name) == 0))
            fail(file, SEEDMASK_MANIFEST, "expected unique names, got %s twice", quote(file, name));
    }
}

/* The parts of a masked tensor, by the prefix of the name, in the order of prefixes; `state/` comes before the last. */
enum slot { COATS_PART, LOG_PART, MASK_PART, SCALES_PART, VALUES_PART, SLOTS_OF_TENSOR };

struct place {
    unsigned item; /* 0: absent */
    uint64_t bytes, *offset;
    const char *prefix, *dtype;
};

static struct place place_of(struct tensor *tensor, int part)
{
    static const char *const PREFIXES[SLOTS_OF_TENSOR] = {",\"coats/", ",\"log/", ",\"mask/", ",\"scales/",
                                                          ",\"values/"};
    struct place place = {0, 0, NULL, PREFIXES[part], "U8"};
    if (part == COATS_PART) {
        place.item = tensor->coats_width > 0;
        place.bytes = tensor->coats_bytes;
        place.offset = &tensor->coats_offset;
    } else if (part == LOG_PART) {
        place.item = tensor->log_kind != NO_LOG;
        place.bytes = tensor->log_bytes;
        place.offset = &tensor->log_offset;
    } else if (part == MASK_PART) {
        place.item = 1;
        place.bytes = tensor->mask_bytes;
        place.offset = &tensor->mask_offset;
    } else if (part == SCALES_PART) {
        place.item = tensor->values_kind == VALUES_I8 ? 4 : 0;
        place.bytes = 4 * tensor->rows;
        place.offset = &tensor->scales_offset;
        place.dtype = "F32";
    } else if (tensor->values_kind != NO_VALUES) {
        place.item = VALUE_BYTES[tensor->values_kind];
        place.bytes = tensor->values_bytes;
        place.offset = &tensor->values_offset;
        if (tensor->values_kind != VALUES_I8)
            place.dtype = VALUE_NAMES[tensor->values_kind];
    }
    return place;
}

static void place_part(seedmask *file, const size_t *order, int part, unsigned item, uint64_t *end)
{
    for (size_t i = 0; i < file->tensor_count; ++i) {
        struct place place = place_of(&file->tensors[order[i]], part);
        if (place.item != item)
            continue;
        *place.offset = *end;
        add_bytes(file, end, place.bytes);
    }
}

/* Where each payload is: by item size, largest first, then by name with its prefix. */
static void place_data(seedmask *file, const size_t *order)
{
    uint64_t end = 0;
    for (unsigned item = 8; item > 0 && !failed(file); item /= 2) {
        for (int part = COATS_PART; part <= SCALES_PART; ++part)
            place_part(file, order, part, item, &end);
        for (size_t i = 0; i < file->state_count; ++i) {
            struct state *state = &file->states[i];
            if (DTYPE_BYTES[state->dtype] != item)
                continue;
            state->offset = end;
            add_bytes(file, &end, stored_bytes(state));
        }
        place_part(file, order, VALUES_PART, item, &end);
    }
    if (end != file->data_bytes)
        fail(file, SEEDMASK_CONTAINER, "trailing bytes: expected %" PRIu64 " bytes of data, got %" PRIu64, end,
             file->data_bytes);
}

/* The header as it must be is compared with the one that is there, piece by piece. */

static void match(seedmask *file, size_t *at, const char *text, size_t length)
{
    if (failed(file))
        return;
    if (length > file->header_bytes - *at || memcmp(file->header + *at, text, length) != 0)
        fail(file, SEEDMASK_CONTAINER, "header: does not agree with the manifest near byte %zu", *at);
    else
        *at += length;
}

static void match_text(seedmask *file, size_t *at, const char *text)
{
    match(file, at, text, strlen(text));
}

/* Without a shape, that is a list of `count`. */
static void match_entry(seedmask *file, size_t *at, const char *prefix, const char *name, uint64_t begin,
                        uint64_t bytes, const char *dtype, const char *shape, uint64_t count)
{
    char offsets[96], length[32];
    const char *end = name + 1;
    snprintf(offsets, sizeof offsets, ":{\"data_offsets\":[%" PRIu64 ",%" PRIu64 "],\"dtype\":\"", begin,
             begin + bytes);
    snprintf(length, sizeof length, "[%" PRIu64 "]", count);
    while (next_code_point(&end) >= 0) {
    }
    match_text(file, at, prefix);
    match(file, at, name + 1, (size_t)(end - name) - 1);
    match_text(file, at, offsets);
    match_text(file, at, dtype);
    match_text(file, at, "\",\"shape\":");
    if (shape)
        match(file, at, shape, strcspn(shape, "]") + 1);
    else
        match_text(file, at, length);
    match_text(file, at, "}");
}

static void match_part(seedmask *file, size_t *at, const size_t *order, int part)
{
    for (size_t i = 0; i < file->tensor_count && !failed(file); ++i) {
        struct tensor *tensor = &file->tensors[order[i]];
        struct place place = place_of(tensor, part);
        if (place.item > 0)
            match_entry(file, at, place.prefix, tensor->name, *place.offset, place.bytes, place.dtype, NULL,
                        place.bytes / place.item);
    }
}

static void check_header(seedmask *file, size_t at, const size_t *order)
{
    match_text(file, &at, "}");
    for (int part = COATS_PART; part <= SCALES_PART; ++part)
        match_part(file, &at, order, part);
    for (size_t i = 0; i < file->state_count; ++i) {
        const struct state *state = &file->states[i];
        if (state->value)
            continue;
        match_entry(file, &at, ",\"state/", state->name, state->offset, state->bytes, DTYPE_NAMES[state->dtype],
                    state->shape, 0);
    }
    match_part(file, &at, order, VALUES_PART);
    match_text(file, &at, "}");
    if (file->header_bytes - at > 7 && !failed(file))
        fail(file, SEEDMASK_CONTAINER, "header: expected at most 7 spaces at its end");
    while (at < file->header_bytes && !failed(file))
        match_text(file, &at, " ");
}

static void *allocate(seedmask *file, size_t count, size_t size)
{
    void *block = count <= SIZE_MAX / size ? calloc(count + (count == 0), size) : NULL;
    if (!block)
        fail(file, SEEDMASK_MEMORY, "out of memory");
    return block;
}

/* ---- The compact form (6) ------------------------------------------------------------------------------------ */

static void check_payload(seedmask *file)
{
    struct window *window = &file->mask.payload;
    struct sha256 sha;
    sha256_start(&sha);
    window->next = file->sealed_begin;
    window->end = window->next + file->sealed_bytes;
    window->at = window->have = 0;
    while (window_left(window) > 0) {
        size_t part = window_left(window) < WINDOW ? (size_t)window_left(window) : WINDOW;
        const unsigned char *bytes = window_take(file, window, part);
        if (!bytes)
            return;
        sha256_add(&sha, bytes, part);
    }
    check_digest(file, &sha, file->payload_digest, "payload");
}

static const char *const WORDS[] = {
    "weight",     "bias",       "running_mean", "running_var", "num_batches_tracked",
    "0",          "1",          "2",            "3",           "4",
    "5",          "6",          "7",            "8",           "9",
    "10",         "11",         "12",           "13",          "14",
    "15",         "conv",       "conv1",        "conv2",       "conv3",
    "bn",         "bn1",        "bn2",          "bn3",         "norm",
    "norm1",      "norm2",      "norm3",        "fc",          "fc1",
    "fc2",        "fc3",        "linear",       "head",        "classifier",
    "features",   "layers",     "layer",        "layer1",      "layer2",
    "layer3",     "layer4",     "blocks",       "block",       "stages",
    "stem",       "downsample", "shortcut",     "embedding",   "encoder",
    "attention",  "query",      "key",          "value",       "out",
    "proj",       "mlp",        "tokens",       "places",      "scale",
    "whiten",     "name",       "num_classes",  "in_channels", "image_size",
    "width",      "depth",      "affine",       "activation",  "batch_norm",
    "none",       "shape",      "mean",         "std",         "length",
    "unit",       "vocabulary", "words",        "bytes"};

enum { KNOWN_WORDS = sizeof WORDS / sizeof *WORDS, MAX_WORDS = SEEDMASK_MAX_NAME + 1, MAX_DIRECTORY = 1000000 };

struct word {
    const unsigned char *at;
    size_t bytes;
};

/* Text that grows. */
struct text {
    char *at;
    size_t used, capacity;
};

enum section { TEXT_ARCHITECTURE, TEXT_INPUT, TEXT_CLASSES, TEXT_RECIPE, TEXT_TENSORS, TEXT_STATE, SECTIONS };

/* A directory that is being turned into the manifest in JSON that it stands for; only while a file is opened. */
struct directory {
    seedmask *file;
    const unsigned char *at, *end;
    struct word *words;
    size_t word_count, word_capacity, last_count;
    struct word last[MAX_WORDS]; /* of the name before */
    struct text sections[SECTIONS], *out;
    size_t written; /* in all sections */
    bool constants; /* whether there may be state tensors of one value */
};

static void put(struct directory *directory, const char *bytes, size_t count)
{
    struct text *out = directory->out;
    seedmask *file = directory->file;
    if (failed(file))
        return;
    directory->written += count;
    if (directory->written > file->max_header) {
        fail(file, SEEDMASK_LIMIT, "directory: expected at most %zu bytes as JSON, got more", file->max_header);
        return;
    }
    if (count > out->capacity - out->used) {
        size_t capacity = 2 * out->capacity + count + 64;
        char *grown = realloc(out->at, capacity);
        if (!grown) {
            fail(file, SEEDMASK_MEMORY, "out of memory");
            return;
        }
        out->at = grown;
        out->capacity = capacity;
    }
    memcpy(out->at + out->used, bytes, count);
    out->used += count;
}

static void print(struct directory *directory, const char *format, ...)
{
    char buffer[96];
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    if (length > 0)
        put(directory, buffer, (size_t)length < sizeof buffer ? (size_t)length : sizeof buffer - 1);
}

/* The next bytes of the directory; zeros, and an error, where there are fewer. */
static const unsigned char *take(struct directory *directory, uint64_t count)
{
    static const unsigned char ZEROS[32] = {0};
    const unsigned char *bytes = directory->at;
    if (!failed(directory->file) && count > (uint64_t)(directory->end - directory->at))
        fail(directory->file, SEEDMASK_MANIFEST, "directory: it ends early");
    if (failed(directory->file))
        return ZEROS;
    directory->at += count;
    return bytes;
}

static unsigned take_byte(struct directory *directory)
{
    return *take(directory, 1);
}

static uint64_t take_number(struct directory *directory)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 10 && !failed(directory->file); ++i) {
        unsigned byte = take_byte(directory);
        if (i == 9 && byte > 1)
            break;
        value |= (uint64_t)(byte & 127) << 7 * i;
        if (byte < 128) {
            if (byte == 0 && i > 0)
                break;
            return value;
        }
    }
    fail(directory->file, SEEDMASK_MANIFEST, "directory: expected a number below 2**64 in its shortest form");
    return 0;
}

/* How many items follow, each of a byte or more. */
static size_t take_count(struct directory *directory)
{
    uint64_t count = take_number(directory);
    if (count > (uint64_t)(directory->end - directory->at))
        fail(directory->file, SEEDMASK_MANIFEST, "directory: expected fewer items than bytes, got %" PRIu64, count);
    return failed(directory->file) ? 0 : (size_t)count;
}

static struct word take_word(struct directory *directory)
{
    struct word word = {NULL, 0};
    uint64_t index = take_number(directory);
    if (failed(directory->file))
        return word;
    if (index < KNOWN_WORDS) {
        word.at = (const unsigned char *)WORDS[index];
        word.bytes = strlen(WORDS[index]);
        return word;
    }
    index -= KNOWN_WORDS;
    if (index < directory->word_count)
        return directory->words[index];
    if (index > directory->word_count) {
        fail(directory->file, SEEDMASK_MANIFEST, "directory: a word that was not there yet");
        return word;
    }
    word.bytes = take_count(directory);
    word.at = take(directory, word.bytes);
    if (failed(directory->file))
        return word;
    if (directory->word_count == directory->word_capacity) {
        size_t capacity = 2 * directory->word_capacity + 16;
        struct word *grown = realloc(directory->words, capacity * sizeof *grown);
        if (!grown) {
            fail(directory->file, SEEDMASK_MEMORY, "out of memory");
            return word;
        }
        directory->words = grown;
        directory->word_capacity = capacity;
    }
    directory->words[directory->word_count++] = word;
    return word;
}

/* The characters of a word as they stand in canonical JSON. */
static void put_word(struct directory *directory, struct word word)
{
    static const int32_t LEAST[4] = {0, 0x80, 0x800, 0x10000};
    for (size_t i = 0; i < word.bytes && !failed(directory->file);) {
        int32_t c = word.at[i++];
        unsigned more = c < 0x80 ? 0 : c < 0xc0 ? 4 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf8 ? 3 : 4;
        bool right = more < 4 && more <= word.bytes - i;
        if (more > 0)
            c &= 0x3f >> more;
        for (unsigned j = 0; right && j < more; ++j, ++i) {
            right = (word.at[i] & 0xc0) == 0x80;
            c = c << 6 | (word.at[i] & 0x3f);
        }
        if (!right || c < LEAST[more & 3] || c > 0x10ffff || is_forbidden(c))
            fail(directory->file, SEEDMASK_MANIFEST, "directory: a text is not UTF-8, or has a character that it may not");
        else if (c == '"' || c == '\\')
            print(directory, "\\%c", (int)c);
        else if (c < 0x7f)
            print(directory, "%c", (int)c);
        else if (c < 0x10000)
            print(directory, "\\u%04" PRIx32, (uint32_t)c);
        else
            print(directory, "\\u%04" PRIx32 "\\u%04" PRIx32, (uint32_t)(0xd800 + ((c - 0x10000) >> 10)),
                  (uint32_t)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    }
}

static void put_string(struct directory *directory, struct word word)
{
    put(directory, "\"", 1);
    put_word(directory, word);
    put(directory, "\"", 1);
}

/* The words of a name; they stay in `last`. */
static void take_name(struct directory *directory)
{
    uint64_t shared = take_number(directory);
    size_t more = take_count(directory);
    if (!failed(directory->file) && (shared > directory->last_count || more > MAX_WORDS - shared))
        fail(directory->file, SEEDMASK_MANIFEST, "directory: a name of more words than there can be");
    if (failed(directory->file))
        return;
    for (size_t i = 0; i < more; ++i) {
        struct word word = take_word(directory);
        if (i == 0 && shared < directory->last_count && !failed(directory->file) &&
            word.bytes == directory->last[shared].bytes && memcmp(word.at, directory->last[shared].at, word.bytes) == 0)
            fail(directory->file, SEEDMASK_MANIFEST, "directory: a name that shares more words than it says");
        directory->last[(size_t)shared + i] = word;
    }
    directory->last_count = (size_t)shared + more;
}

static void put_name(struct directory *directory)
{
    print(directory, "\"name\":\"");
    for (size_t i = 0; i < directory->last_count; ++i) {
        put(directory, ".", i > 0);
        put_word(directory, directory->last[i]);
    }
    put(directory, "\"", 1);
}

static uint64_t little_endian(const unsigned char *bytes, unsigned count)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < count; ++i)
        value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

/* The fewest digits that read back as the same number. */
static void put_float(struct directory *directory, double value)
{
    char buffer[40];
    int digits = 1;
    if (!(value - value == 0)) {
        fail(directory->file, SEEDMASK_MANIFEST, "directory: expected a finite number");
        return;
    }
    do
        snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    while (strtod(buffer, NULL) != value && ++digits <= 17);
    for (char *p = buffer; *p; ++p) { /* the locale may have another point */
        if (!strchr("0123456789+-e", *p))
            *p = '.';
    }
    print(directory, "%s%s", buffer, strpbrk(buffer, ".e") ? "" : ".0");
}

static void put_value(struct directory *directory, int depth)
{
    enum { LARGE = 3, NEGATIVE, FLOAT32, FLOAT64, TEXT, LIST, OBJECT, SMALL, SMALL_INTEGERS = 256 - SMALL };
    static const char *const NAMES[LARGE] = {"null", "false", "true"};
    unsigned kind = take_byte(directory);
    if (depth >= MAX_DEPTH)
        fail(directory->file, SEEDMASK_MANIFEST, "directory: nested deeper than %d levels", MAX_DEPTH);
    if (failed(directory->file))
        return;
    if (kind >= SMALL) {
        print(directory, "%u", kind - SMALL);
    } else if (kind < LARGE) {
        print(directory, "%s", NAMES[kind]);
    } else if (kind == LARGE || kind == NEGATIVE) {
        uint64_t value = take_number(directory), add = kind == LARGE ? SMALL_INTEGERS : 1;
        if (value > UINT64_MAX - add)
            fail(directory->file, SEEDMASK_MANIFEST, "directory: expected an integer below 2**64 in magnitude");
        print(directory, "%s%" PRIu64, kind == LARGE ? "" : "-", value + add);
    } else if (kind == FLOAT32) {
        uint32_t bits = (uint32_t)little_endian(take(directory, 4), 4);
        float value;
        memcpy(&value, &bits, sizeof value);
        put_float(directory, (double)value);
    } else if (kind == FLOAT64) {
        uint64_t bits = little_endian(take(directory, 8), 8);
        double value;
        memcpy(&value, &bits, sizeof value);
        put_float(directory, value);
    } else if (kind == TEXT) {
        put_string(directory, take_word(directory));
    } else {
        size_t count = take_count(directory);
        put(directory, kind == OBJECT ? "{" : "[", 1);
        for (size_t i = 0; i < count && !failed(directory->file); ++i) {
            put(directory, ",", i > 0);
            if (kind == OBJECT) {
                put_string(directory, take_word(directory));
                put(directory, ":", 1);
            }
            put_value(directory, depth + 1);
        }
        put(directory, kind == OBJECT ? "}" : "]", 1);
    }
}

/* A payload's size and coding; the size of `raw` is not stored. */
struct stored_row {
    uint64_t bytes;
    const char *coding;
    unsigned width;
};

static struct stored_row take_row(struct directory *directory, unsigned coding, uint64_t count, unsigned width)
{
    struct stored_row row = {0, "raw", width};
    if (coding >= CODINGS)
        fail(directory->file, SEEDMASK_FEATURE, "directory: this decoder does not know the coding %u", coding);
    else if (coding != RAW)
        row.bytes = take_number(directory);
    else /* at most a fourth of 2**64, for width is at most 32 */
        row.bytes = count / 8 * width + (count % 8 * width + 7) / 8;
    row.coding = CODING_NAMES[coding < CODINGS ? coding : RAW];
    return row;
}

static struct stored_row take_wide_row(struct directory *directory, uint64_t count)
{
    unsigned kind = take_byte(directory);
    return take_row(directory, kind & 3, count, 1 + (kind >> 2));
}

/* Sizes of a shape into `sizes`; returns their product, or 2**36 + 1 if it is more. */
static uint64_t take_shape(struct directory *directory, uint64_t rank, uint64_t sizes[SEEDMASK_MAX_RANK])
{
    uint64_t product = 1;
    if (rank > SEEDMASK_MAX_RANK)
        fail(directory->file, SEEDMASK_MANIFEST, "shape: expected at most %d dimensions", SEEDMASK_MAX_RANK);
    for (uint64_t i = 0; i < rank && !failed(directory->file); ++i) {
        sizes[i] = take_number(directory);
        product = sizes[i] > 0 && product > MAX_TENSOR / sizes[i] ? MAX_TENSOR + 1 : product * sizes[i];
    }
    return product;
}

static void put_shape(struct directory *directory, uint64_t rank, const uint64_t sizes[SEEDMASK_MAX_RANK])
{
    print(directory, "\"shape\":[");
    for (uint64_t i = 0; i < rank && !failed(directory->file); ++i)
        print(directory, "%s%" PRIu64, i > 0 ? "," : "", sizes[i]);
    print(directory, "]");
}

static void expand_tensor(struct directory *directory)
{
    static const struct stored_row EMPTY = {0, "raw", 0};
    uint64_t sizes[SEEDMASK_MAX_RANK], rank, count, kept, fixed[3] = {0, 0, 0};
    struct stored_row mask, log = EMPTY, coats = EMPTY, values = EMPTY;
    unsigned kind, more = 0, log_kind;
    uint32_t scale;
    take_name(directory);
    kind = take_byte(directory);
    if (kind & 128)
        more = take_byte(directory);
    if (more > 7 || (more == 0 && kind & 128) || (kind & 3) >= CODEBOOKS)
        fail(directory->file, SEEDMASK_MANIFEST, "directory: a tensor of the kind %u, %u", kind, more);
    rank = take_number(directory);
    count = take_shape(directory, rank, sizes);
    scale = (uint32_t)little_endian(take(directory, 4), 4);
    kept = take_number(directory);
    for (int i = 0; more & 1 && i < 3; ++i)
        fixed[i] = take_number(directory);
    /* counts that cannot be are refused later, by their fields */
    if (kept > MAX_TENSOR + 1 || fixed[2] > MAX_TENSOR + 1)
        fail(directory->file, SEEDMASK_MANIFEST, "directory: expected at most 2**36 weights");
    mask = take_row(directory, kind >> 2 & 3, more & 1 ? fixed[2] : count, 1);
    log_kind = kind >> 4 & 3;
    if (log_kind != NO_LOG)
        log = take_wide_row(directory, kept);
    if (kind & 64)
        coats = take_wide_row(directory, kept);
    if (more >> 1 == 3)
        values = take_row(directory, take_byte(directory), kept, 8);
    else if (more > 1)
        values = take_row(directory, RAW, kept, more >> 1 == 1 ? 32 : 16);
    if (failed(directory->file))
        return;
    put(directory, "{", 1);
    if (kind & 64)
        print(directory, "\"coats\":{\"bytes\":%" PRIu64 ",\"coding\":\"%s\",\"width\":%u},", coats.bytes,
              coats.coding, coats.width);
    print(directory, "\"codebook\":\"%s\",", CODEBOOK_NAMES[kind & 3]);
    if (more & 1) {
        print(directory, "\"frozen\":{\"free\":%" PRIu64 ",\"kept\":%" PRIu64, fixed[2], fixed[1]);
        print(directory, ",\"pruned\":%" PRIu64 "},", fixed[0]);
    }
    print(directory, "\"kept\":%" PRIu64 ",\"log\":{\"bytes\":%" PRIu64, kept, log.bytes);
    print(directory, ",\"coding\":\"%s\",\"kind\":\"%s\",\"width\":%u},", log.coding, LOG_NAMES[log_kind], log.width);
    print(directory, "\"mask\":{\"bytes\":%" PRIu64 ",\"coding\":\"%s\"},", mask.bytes, mask.coding);
    put_name(directory);
    print(directory, ",\"scale\":\"%08" PRIx32 "\",", scale);
    put_shape(directory, rank, sizes);
    if (more > 1)
        print(directory, ",\"values\":{\"bytes\":%" PRIu64 ",\"coding\":\"%s\",\"dtype\":\"%s\"}", values.bytes,
              values.coding, more >> 1 == 1 ? "F32" : more >> 1 == 2 ? "F16" : "I8");
    put(directory, "}", 1);
}

static void expand_state(struct directory *directory)
{
    uint64_t sizes[SEEDMASK_MAX_RANK], number;
    bool constant = false;
    take_name(directory);
    number = take_number(directory);
    if (directory->constants) {
        constant = number % 2;
        number /= 2;
    }
    take_shape(directory, number / DTYPES, sizes);
    if (failed(directory->file))
        return;
    print(directory, "{\"dtype\":\"%s\",", DTYPE_NAMES[number % DTYPES]);
    put_name(directory);
    put(directory, ",", 1);
    put_shape(directory, number / DTYPES, sizes);
    if (constant) {
        unsigned item = DTYPE_BYTES[number % DTYPES];
        print(directory, ",\"value\":\"%0*" PRIx64 "\"", 2 * (int)item, little_endian(take(directory, item), item));
    }
    put(directory, "}", 1);
}

static void put_section(struct directory *directory, const char *key, enum section section)
{
    put(directory, key, strlen(key));
    put(directory, directory->sections[section].at, directory->sections[section].used);
}

/* The manifest that the directory stands for, without digests. */
static void expand(struct directory *directory, const char *features)
{
    seedmask *file = directory->file;
    struct text whole = {NULL, 0, 0};
    unsigned char weights[32];
    uint64_t seed = little_endian(take(directory, 8), 8);
    memcpy(weights, take(directory, 32), 32);
    to_hex(weights, file->weights_text);
    for (int section = 0; section < SECTIONS && !failed(file); ++section) {
        directory->out = &directory->sections[section];
        if (section <= TEXT_RECIPE) {
            put_value(directory, 1);
        } else {
            size_t count = take_count(directory);
            put(directory, "[", 1);
            for (size_t i = 0; i < count && !failed(file); ++i) {
                put(directory, ",", i > 0);
                if (section == TEXT_TENSORS)
                    expand_tensor(directory);
                else
                    expand_state(directory);
            }
            put(directory, "]", 1);
        }
    }
    if (!failed(file) && directory->at != directory->end)
        fail(file, SEEDMASK_MANIFEST, "directory: it goes on behind its end");
    directory->out = &whole;
    directory->written = 0;
    put_section(directory, "{\"architecture\":", TEXT_ARCHITECTURE);
    put_section(directory, ",\"classes\":", TEXT_CLASSES);
    put_section(directory, ",\"format_version\":1,\"generator\":\"philox4x32-10\",\"input\":", TEXT_INPUT);
    put_section(directory, ",\"recipe\":", TEXT_RECIPE);
    print(directory, ",\"required_features\":");
    put(directory, features, strcspn(features, "]") + 1);
    print(directory, ",\"seed\":\"%016" PRIx64 "\"", seed);
    put_section(directory, ",\"state\":", TEXT_STATE);
    put_section(directory, ",\"tensors\":", TEXT_TENSORS);
    put(directory, "}", 2); /* with the NUL */
    if (failed(file)) {
        free(whole.at);
        return;
    }
    file->expanded = whole.at;
    file->manifest = whole.at;
    file->manifest_bytes = whole.used - 1;
}

/* Check the header of a compact file and the digest of its data, and make a manifest of its directory. */
static void expand_file(seedmask *file, size_t behind_manifest, const char *features, bool constants)
{
    struct directory *directory = NULL;
    unsigned char start[36] = {0}, *bytes = NULL;
    uint64_t size = 0;
    unsigned prefix = 0;
    char entry[128];
    if (failed(file))
        return;
    snprintf(entry, sizeof entry, "},\"data\":{\"data_offsets\":[0,%" PRIu64 "],\"dtype\":\"U8\",\"shape\":[%" PRIu64 "]}}",
             file->data_bytes, file->data_bytes);
    match_text(file, &behind_manifest, entry);
    if (file->header_bytes - behind_manifest > 7 && !failed(file))
        fail(file, SEEDMASK_CONTAINER, "header: expected at most 7 spaces at its end");
    while (behind_manifest < file->header_bytes && !failed(file))
        match_text(file, &behind_manifest, " ");
    if (!failed(file) && file->data_bytes < 33)
        fail(file, SEEDMASK_CONTAINER, "truncated: expected a digest and a directory");
    if (failed(file) || !read_bytes(file, file->data_begin, start, file->data_bytes < 36 ? 33 : 36))
        return;
    to_hex(start, file->payload_text);
    file->payload_digest = file->payload_text;
    file->sealed_begin = file->data_begin + 32;
    file->sealed_bytes = file->data_bytes - 32;
    check_payload(file);
    do
        size |= (uint64_t)(start[32 + prefix] & 127) << 7 * prefix;
    while (start[32 + prefix++] >= 128 && prefix < 4);
    if (start[31 + prefix] >= 128 || (start[31 + prefix] == 0 && prefix > 1) || size > MAX_DIRECTORY ||
        size + prefix > file->sealed_bytes)
        fail(file, SEEDMASK_MANIFEST, "directory: expected its size in the shortest form, and that many bytes");
    else if (size > file->max_header)
        fail(file, SEEDMASK_LIMIT, "directory: expected at most %zu bytes, got %" PRIu64, file->max_header, size);
    if (failed(file))
        return;
    file->data_begin = file->sealed_begin + prefix + size;
    file->data_bytes = file->sealed_bytes - prefix - size;
    bytes = allocate(file, (size_t)size, 1);
    directory = allocate(file, 1, sizeof *directory);
    if (!failed(file) && read_bytes(file, file->sealed_begin + prefix, bytes, (size_t)size)) {
        directory->file = file;
        directory->constants = constants;
        directory->at = bytes;
        directory->end = bytes + size;
        expand(directory, features);
    }
    for (int i = 0; directory && i < SECTIONS; ++i)
        free(directory->sections[i].at);
    if (directory)
        free(directory->words);
    free(directory);
    free(bytes);
}

/* ---- Opening ------------------------------------------------------------------------------------------------- */

static void close_file(seedmask *file)
{
    free(file->header);
    free(file->tensors);
    free(file->states);
    free(file->expanded);
    file->header = NULL;
    file->expanded = NULL;
    file->tensors = NULL;
    file->states = NULL;
    file->manifest = NULL;
    file->manifest_bytes = 0;
    file->tensor_count = file->state_count = 0;
    file->constants = false;
    file->open = false;
}

static void begin_call(seedmask *file)
{
    file->code = SEEDMASK_OK;
    file->message[0] = file->place[0] = '\0';
}

static void load_header(seedmask *file, uint64_t size, size_t max_header)
{
    unsigned char prefix[8];
    uint64_t length = 0;
    if (size < 8) {
        fail(file, SEEDMASK_CONTAINER, "truncated: expected at least 8 bytes, got %" PRIu64, size);
        return;
    }
    if (!read_bytes(file, 0, prefix, 8))
        return;
    for (unsigned i = 0; i < 8; ++i)
        length |= (uint64_t)prefix[i] << 8 * i;
    if (length > MAX_HEADER_LENGTH || length % 8 != 0 || length == 0)
        fail(file, SEEDMASK_CONTAINER,
             "not a .seedmask file: expected the length of a header, a multiple of 8 up to 100000000, got %" PRIu64,
             length);
    else if (length > size - 8)
        fail(file, SEEDMASK_CONTAINER, "truncated: expected a header of %" PRIu64 " bytes, got %" PRIu64, length,
             size - 8);
    else if (length > max_header || length > SIZE_MAX)
        fail(file, SEEDMASK_LIMIT, "header: expected at most %zu bytes, got %" PRIu64, max_header, length);
    if (failed(file))
        return;
    file->max_header = max_header;
    file->header_bytes = (size_t)length;
    file->data_begin = 8 + length;
    file->data_bytes = size - file->data_begin;
    file->sealed_begin = file->data_begin;
    file->sealed_bytes = file->data_bytes;
    file->header = allocate(file, file->header_bytes, 1);
    if (file->header)
        read_bytes(file, 8, file->header, file->header_bytes);
}

/* Find the manifest and unescape it in place. Returns where the header goes on behind its closing quote. */
static size_t extract_manifest(seedmask *file)
{
    static const char BEGIN[] = "{\"__metadata__\":{\"seedmask\":\"";
    size_t at = sizeof BEGIN - 1, end = at;
    if (file->header_bytes < at || memcmp(file->header, BEGIN, at) != 0) {
        fail(file, SEEDMASK_CONTAINER, "not a .seedmask file: expected %s at byte 8", BEGIN);
        return 0;
    }
    file->manifest = (const char *)file->header + at;
    for (; at < file->header_bytes && file->header[at] != '"'; ++at, ++end) {
        unsigned char character = file->header[at];
        if (character < 0x20 || character > 0x7e)
            break;
        if (character == '\\') {
            ++at;
            if (at == file->header_bytes || (file->header[at] != '"' && file->header[at] != '\\'))
                break;
        }
        file->header[end] = file->header[at];
    }
    if (at >= file->header_bytes || file->header[at] != '"') {
        fail(file, SEEDMASK_JSON, "header, byte %zu: expected printable ASCII in canonical form", at);
        return 0;
    }
    file->header[end] = '\0'; /* at most at the closing quote */
    file->manifest_bytes = end - (sizeof BEGIN - 1);
    return at + 1;
}

static void check_other_fields(seedmask *file, const char *const values[FIELD_COUNT])
{
    static const int OBJECTS[3] = {ARCHITECTURE, INPUT, RECIPE};
    const char *at = values[GENERATOR];
    if (failed(file))
        return;
    if (!starts_with(at, "\"philox4x32-10\""))
        fail(file, SEEDMASK_MANIFEST, "generator: expected \"philox4x32-10\", got %s", quote(file, at));
    for (int i = 0; i < 3; ++i) {
        at = values[OBJECTS[i]];
        if (*at != '{' && *at != 'n')
            fail(file, SEEDMASK_MANIFEST, "%s: expected an object or null, got %s", FIELDS[OBJECTS[i]],
                 quote(file, at));
    }
    at = values[CLASSES];
    if (*at == 'n')
        return;
    read_text(file, &at, "[");
    while (!failed(file) && *at != ']') {
        at += *at == ',';
        read_name(file, &at);
    }
}

static void read_manifest(seedmask *file, uint64_t max_weights, size_t behind_manifest)
{
    const char *values[FIELD_COUNT], *unknown, *weights_digest, *at;
    bool features[FEATURES] = {false}, used[FEATURES] = {false};
    uint64_t total = 0;
    const char *end = file->manifest[0] == '{' ? walk(file, file->manifest, 0) : file->manifest;
    if (!failed(file) && (end == file->manifest || *end != '\0'))
        malformed(file, end, end == file->manifest ? "{" : "the end");
    if (failed(file))
        return;
    /* first the version, then the features: a newer file may differ in anything else */
    unknown = find_fields(file, values);
    check_version(file, values[FORMAT_VERSION]);
    read_features(file, values[REQUIRED_FEATURES], features);
    if (!failed(file) && features[FEATURE_COMPACT] && !file->expanded) {
        if (unknown)
            fail(file, SEEDMASK_MANIFEST, "manifest: unknown field %s", quote(file, unknown));
        for (int i = 0; i < FIELD_COUNT; ++i) {
            if (values[i] && i != FORMAT_VERSION && i != REQUIRED_FEATURES)
                fail(file, SEEDMASK_MANIFEST, "manifest: unknown field \"%s\" in a compact file", FIELDS[i]);
        }
        expand_file(file, behind_manifest, values[REQUIRED_FEATURES], features[FEATURE_CONSTANTS]);
        if (!failed(file))
            read_manifest(file, max_weights, 0);
        return;
    }
    for (int i = 0; i < FIELD_COUNT; ++i) {
        if (!values[i] && !(file->expanded && i == DIGESTS))
            fail(file, SEEDMASK_MANIFEST, "manifest: expected the field \"%s\"", FIELDS[i]);
    }
    if (unknown)
        fail(file, SEEDMASK_MANIFEST, "manifest: unknown field %s", quote(file, unknown));
    if (failed(file))
        return;
    weights_digest = file->expanded ? file->weights_text : read_digests(file, values[DIGESTS]);
    check_other_fields(file, values);
    at = values[SEED];
    file->seed = hex_value(file, read_hex(file, &at, 16, "seed"), 16);
    file->tensor_count = count_items(file, values[TENSORS], "tensors");
    file->state_count = count_items(file, values[STATE], "state");
    if (failed(file))
        return;
    if (file->tensor_count < 1) {
        fail(file, SEEDMASK_MANIFEST, "tensors: expected at least one");
        return;
    }
    file->tensors = allocate(file, file->tensor_count, sizeof *file->tensors);
    file->states = allocate(file, file->state_count, sizeof *file->states);
    used[FEATURE_TEXT] = takes_texts(file, values[INPUT]);
    used[FEATURE_COMPACT] = file->expanded != NULL;
    read_tensors(file, values[TENSORS], &total, max_weights, used, weights_digest);
    read_states(file, values[STATE], &total, max_weights);
    used[FEATURE_CONSTANTS] = file->constants;
    check_features(file, used, features);
}

/* a small file can stand for very many weights: docs/FORMAT.md, section 3 */
static uint64_t default_max_weights(uint64_t size)
{
    const uint64_t least = UINT64_C(1) << 24, most = UINT64_C(1) << 33, each = 1024;
    return size >= most / each ? most : size * each < least ? least : size * each;
}

static void open_file(seedmask *file, uint64_t size, const seedmask_options *options)
{
    size_t max_header = options && options->max_header > 0 ? options->max_header : (size_t)16 << 20;
    uint64_t max_weights = options && options->max_weights > 0 ? options->max_weights : default_max_weights(size);
    size_t behind_manifest, *order;
    file->skip_weight_digests = options && options->skip_weight_digests;
    load_header(file, size, max_header);
    if (failed(file))
        return;
    behind_manifest = extract_manifest(file);
    if (failed(file))
        return;
    read_manifest(file, max_weights, behind_manifest);
    if (failed(file))
        return;
    order = allocate(file, file->tensor_count, sizeof *order);
    if (!order)
        return;
    sort_by_name(file->tensors, order, file->tensor_count);
    check_unique(file, order);
    place_data(file, order);
    if (!file->expanded)
        check_header(file, behind_manifest, order);
    free(order);
}

static seedmask_code open_and_clean_up(seedmask *file, uint64_t size, const seedmask_options *options)
{
    begin_call(file);
    open_file(file, size, options);
    file->open = !failed(file);
    if (!file->open)
        close_file(file);
    return file->code;
}

seedmask *seedmask_create(void)
{
    return calloc(1, sizeof(seedmask));
}

void seedmask_destroy(seedmask *file)
{
    if (file)
        close_file(file);
    free(file);
}

seedmask_code seedmask_open(seedmask *file, seedmask_read *read, void *user, uint64_t size,
                            const seedmask_options *options)
{
    close_file(file);
    file->memory = NULL;
    file->read = read;
    file->user = user;
    return open_and_clean_up(file, size, options);
}

seedmask_code seedmask_open_memory(seedmask *file, const void *data, size_t size, const seedmask_options *options)
{
    close_file(file);
    file->memory = data;
    file->read = NULL;
    file->user = NULL;
    return open_and_clean_up(file, size, options);
}

/* ---- Questions ----------------------------------------------------------------------------------------------- */

const char *seedmask_message(const seedmask *file)
{
    return file->message;
}

size_t seedmask_tensors(const seedmask *file)
{
    return file->tensor_count;
}

size_t seedmask_states(const seedmask *file)
{
    return file->state_count;
}

const char *seedmask_manifest(const seedmask *file, size_t *length)
{
    if (length)
        *length = file->manifest_bytes;
    return file->manifest;
}

/* Of a compact file, once all tensors have been decoded: the digest of them all. */
static void note_digest(seedmask *file, struct tensor *tensor, struct sha256 *sha)
{
    struct sha256 all;
    sha256_finish(sha, tensor->found);
    tensor->decoded = true;
    sha256_start(&all);
    for (size_t i = 0; i < file->tensor_count; ++i) {
        if (!file->tensors[i].decoded)
            return;
        sha256_add(&all, file->tensors[i].found, 32);
    }
    file->place[0] = '\0';
    check_digest(file, &all, file->weights_text, "weights of all tensors");
}

static bool begin_call_for(seedmask *file, size_t index, size_t count, const char *list)
{
    begin_call(file);
    if (!file->open)
        fail(file, SEEDMASK_USAGE, "no file is open");
    else if (index >= count)
        fail(file, SEEDMASK_USAGE, "%s: expected an index below %zu, got %zu", list, count, index);
    return !failed(file);
}

seedmask_code seedmask_describe_tensor(seedmask *file, size_t index, seedmask_tensor *tensor)
{
    const struct tensor *entry;
    if (!begin_call_for(file, index, file->tensor_count, "tensors"))
        return file->code;
    entry = &file->tensors[index];
    memset(tensor, 0, sizeof *tensor);
    name_of(entry->name, tensor->name);
    tensor->rank = shape_of(entry->shape, tensor->shape);
    tensor->weights = entry->weights;
    tensor->kept = entry->kept;
    tensor->codebook = CODEBOOK_NAMES[entry->codebook];
    tensor->mask_coding = CODING_NAMES[entry->mask_coding];
    tensor->log_kind = LOG_NAMES[entry->log_kind];
    tensor->log_coding = CODING_NAMES[entry->log_coding];
    tensor->mask_bytes = entry->mask_bytes;
    tensor->log_bytes = entry->log_bytes;
    tensor->free = entry->free;
    tensor->frozen_pruned = entry->fixed_pruned;
    tensor->frozen_kept = entry->fixed_end - entry->fixed_pruned;
    if (entry->coats_width > 0)
        tensor->coats_coding = CODING_NAMES[entry->coats_coding];
    tensor->coats_bytes = entry->coats_bytes;
    if (entry->values_kind != NO_VALUES) {
        tensor->values_dtype = VALUE_NAMES[entry->values_kind];
        tensor->values_coding = CODING_NAMES[entry->values_coding];
    }
    tensor->values_bytes = entry->values_bytes;
    tensor->scales_bytes = entry->values_kind == VALUES_I8 ? 4 * entry->rows : 0;
    memcpy(&tensor->scale, &entry->scale, sizeof tensor->scale);
    return file->code;
}

seedmask_code seedmask_describe_state(seedmask *file, size_t index, seedmask_state *state)
{
    const struct state *entry;
    if (!begin_call_for(file, index, file->state_count, "state"))
        return file->code;
    entry = &file->states[index];
    memset(state, 0, sizeof *state);
    name_of(entry->name, state->name);
    state->rank = shape_of(entry->shape, state->shape);
    state->dtype = DTYPE_NAMES[entry->dtype];
    state->bytes = entry->bytes;
    return file->code;
}

/* ---- Decoding (1) -------------------------------------------------------------------------------------------- */

/* What one tensor needs while it is decoded. */
struct tables {
    int8_t book[256];
    float weights[256];          /* of code + 128 */
    unsigned char bytes[256][4]; /* the same, little-endian */
};

static void make_tables(const struct tensor *tensor, struct tables *tables)
{
    for (int i = 0; i < 256; ++i) {
        uint32_t bits = i == 0 ? 0 : product_bits(tensor->scale, i - 128);
        tables->book[i] = (int8_t)codebook_entry((enum codebook)tensor->codebook, i);
        memcpy(&tables->weights[i], &bits, sizeof bits);
        for (unsigned j = 0; j < 4; ++j)
            tables->bytes[i][j] = (unsigned char)(bits >> 8 * j & 255);
    }
}

/* Codes of up to a block of weights, from their mask and log. Masks are noise: few branches, for speed. */
static void block_codes(const seedmask *file, const struct tensor *tensor, uint32_t index, uint32_t block,
                        const int8_t book[256], const uint8_t *kept, const uint8_t *draws, int8_t *codes, size_t count)
{
    uint8_t bytes[BLOCK], other[BLOCK];
    unsigned any = 0;
    for (size_t i = 0; i < count; ++i)
        any |= kept[i];
    memset(codes, 0, count);
    if (!any)
        return;
    philox(block, 0, index, WEIGHTS, file->seed, bytes);
    if (tensor->log_kind == NO_LOG || tensor->log_kind == FLIPS) {
        for (size_t i = 0; i < count; ++i)
            codes[i] = (int8_t)(book[bytes[i]] * kept[i] * (1 - 2 * draws[i]));
        return;
    }
    for (size_t i = 0; i < count; ++i) {
        if (tensor->log_kind == DELTAS) {
            bytes[i] ^= draws[i];
        } else if (draws[i] > 0) {
            philox(block, draws[i], index, WEIGHTS, file->seed, other);
            bytes[i] = other[i];
        }
        codes[i] = (int8_t)(book[bytes[i]] * kept[i]);
    }
}

/* Mask bits of the next weights: stored ones, and those that the generator fixes (1.6). */
static bool next_mask(seedmask *file, const struct tensor *tensor, uint32_t index, uint64_t first, size_t count,
                      uint64_t *free_left)
{
    enum { FREE = 2, NUMBERS = BLOCK / 2 };
    uint8_t bytes[BLOCK], *stored = file->draws; /* which this chunk does not need yet */
    size_t free = 0, next = 0;
    if (tensor->fixed_end == 0) {
        *free_left -= count;
        return row_next(file, &file->mask, file->kept, count);
    }
    for (size_t i = 0; i < count; ++i) {
        uint32_t number;
        if (i % NUMBERS == 0) /* below 2**32, for such a tensor has at most 2**35 weights */
            philox((uint32_t)((first + i) / NUMBERS), 0, index, FREEZING, file->seed, bytes);
        number = (uint32_t)bytes[2 * (i % NUMBERS)] | (uint32_t)bytes[2 * (i % NUMBERS) + 1] << 8;
        file->kept[i] = number >= tensor->fixed_end ? FREE : number >= tensor->fixed_pruned;
        free += number >= tensor->fixed_end;
    }
    if (free > *free_left) {
        fail(file, SEEDMASK_PAYLOAD, "frozen: expected %" PRIu64 " free weights, the generator leaves more",
             tensor->free);
        return false;
    }
    *free_left -= free;
    if (!row_next(file, &file->mask, stored, free))
        return false;
    for (size_t i = 0; i < count; ++i) {
        if (file->kept[i] == FREE)
            file->kept[i] = stored[next++];
    }
    return true;
}

/* Values of kept weights, moved to the places of these; from the back, so that none is overwritten. */
static void spread(const uint8_t *mask, uint8_t *values, size_t count, size_t kept)
{
    size_t next = kept;
    for (size_t i = count; i > 0; --i) {
        next -= mask[i - 1];
        values[i - 1] = values[next] & (uint8_t)-mask[i - 1];
    }
}

/* What is left of the rows of a tensor, and what came of them: ORed values tell the length of the largest one. */
struct progress {
    uint64_t kept_left, free_left;
    unsigned log_bits, coat_bits;
};

/* Mask, log and coats of the next weights. */
static void next_rows(seedmask *file, const struct tensor *tensor, uint32_t index, uint64_t first, size_t count,
                        struct progress *progress)
{
    size_t kept = 0;
    if (!next_mask(file, tensor, index, first, count, &progress->free_left))
        return;
    for (size_t i = 0; i < count; ++i)
        kept += file->kept[i];
    if (kept > progress->kept_left) {
        fail(file, SEEDMASK_PAYLOAD, "mask: expected %" PRIu64 " ones, got more", tensor->kept);
        return;
    }
    progress->kept_left -= kept;
    memset(file->draws, 0, count);
    if (tensor->log_kind != NO_LOG) {
        if (!row_next(file, &file->log, file->draws, kept))
            return;
        spread(file->kept, file->draws, count, kept);
    }
    if (tensor->coats_width > 0) {
        if (!row_next(file, &file->coats, file->coat_values, kept))
            return;
        for (size_t i = 0; i < kept; ++i) {
            progress->coat_bits |= file->coat_values[i];
            if (file->coat_values[i] > 126)
                fail(file, SEEDMASK_PAYLOAD, "coats: expected at most 127, got 128");
        }
        spread(file->kept, file->coat_values, count, kept);
    }
}

static void close_row(seedmask *file, struct row *row, unsigned bits)
{
    if (!failed(file) && row_close(file, row) && (bits >> (row->width - 1)) == 0)
        fail(file, SEEDMASK_PAYLOAD, "%s: expected a value of %u bits, got only smaller ones", row->what, row->width);
}

static void close_rows(seedmask *file, const struct tensor *tensor, const struct progress *progress)
{
    if (progress->free_left > 0)
        fail(file, SEEDMASK_PAYLOAD, "frozen: expected %" PRIu64 " free weights, the generator leaves %" PRIu64,
             tensor->free, tensor->free - progress->free_left);
    if (progress->kept_left > 0)
        fail(file, SEEDMASK_PAYLOAD, "mask: expected %" PRIu64 " ones, got %" PRIu64, tensor->kept,
             tensor->kept - progress->kept_left);
    if (!failed(file))
        row_close(file, &file->mask);
    if (tensor->log_kind != NO_LOG)
        close_row(file, &file->log, progress->log_bits);
    if (tensor->coats_width > 0)
        close_row(file, &file->coats, progress->coat_bits);
    if (tensor->values_kind == VALUES_I8 && !failed(file))
        row_close(file, &file->log);
}

static void open_rows(seedmask *file, const struct tensor *tensor)
{
    uint64_t mask[2] = {tensor->mask_offset, tensor->mask_bytes}, log[2] = {tensor->log_offset, tensor->log_bytes};
    uint64_t coats[2] = {tensor->coats_offset, tensor->coats_bytes};
    uint64_t values[2] = {tensor->values_offset, tensor->values_bytes};
    if (!row_open(file, &file->mask, "mask", mask, (enum coding)tensor->mask_coding, 1, tensor->free))
        return;
    if (tensor->log_kind != NO_LOG &&
        !row_open(file, &file->log, "log", log, (enum coding)tensor->log_coding, tensor->log_width, tensor->kept))
        return;
    if (tensor->coats_width > 0 && !row_open(file, &file->coats, "coats", coats, (enum coding)tensor->coats_coding,
                                             tensor->coats_width, tensor->kept))
        return;
    if (tensor->values_kind == VALUES_I8) {
        row_open(file, &file->log, "values", values, (enum coding)tensor->values_coding, 8, tensor->kept);
        window_open(file, &file->coats.payload, tensor->scales_offset, 4 * tensor->rows);
    } else if (tensor->values_kind != NO_VALUES) {
        window_open(file, &file->log.payload, tensor->values_offset, tensor->values_bytes);
    }
}

/* Codes and weights of the next chunk, from its mask, log and coats. */
static void random_chunk(seedmask *file, const struct tensor *tensor, uint32_t index, uint64_t first, size_t count,
                         const struct tables *tables, struct progress *progress, struct sha256 *sha)
{
    for (size_t i = 0; i < count; i += BLOCK) {
        unsigned char bytes[4 * BLOCK];
        size_t part = count - i < BLOCK ? count - i : BLOCK;
        uint32_t block = (uint32_t)((first + i) / BLOCK); /* below 2**32, for a tensor is below 2**36 */
        block_codes(file, tensor, index, block, tables->book, file->kept + i, file->draws + i, file->codes + i, part);
        for (size_t j = 0; tensor->coats_width > 0 && j < part; ++j)
            file->codes[i + j] = (int8_t)(file->codes[i + j] * (file->coat_values[i + j] + 1));
        for (size_t j = 0; j < part; ++j) {
            progress->log_bits |= file->draws[i + j];
            file->weights[i + j] = tables->weights[file->codes[i + j] + 128];
            memcpy(bytes + 4 * j, tables->bytes[file->codes[i + j] + 128], 4);
        }
        if (!file->skip_weight_digests)
            sha256_add(sha, bytes, 4 * part);
    }
}

/* ---- Trained values (1.8) ------------------------------------------------------------------------------------ */

/* The binary32 number that is equal to a finite binary16 number. */
static uint32_t widened(uint32_t half)
{
    uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    if (exponent == 0) { /* subnormal, or 0 */
        if (mantissa == 0)
            return sign;
        for (exponent = 1; mantissa < 0x400; --exponent) /* wraps, and comes back when 112 is added */
            mantissa <<= 1;
        mantissa &= 0x3ff;
    }
    return sign | (exponent + 112) << 23 | mantissa << 13;
}

static uint32_t take_little(seedmask *file, struct window *window, unsigned size)
{
    const unsigned char *bytes = window_take(file, window, size);
    uint32_t value = 0;
    for (unsigned i = 0; bytes && i < size; ++i)
        value |= (uint32_t)bytes[i] << 8 * i;
    return value;
}

/* The bits of the next kept weight; `scale` is that of its row. */
static uint32_t next_value(seedmask *file, const struct tensor *tensor, uint32_t scale)
{
    uint32_t bits;
    uint8_t value;
    if (tensor->values_kind == VALUES_I8) {
        if (!row_next(file, &file->log, &value, 1))
            return 0;
        if (value == 128)
            fail(file, SEEDMASK_PAYLOAD, "values: expected -127 to 127, got -128");
        return failed(file) ? 0 : product_bits(scale, value < 128 ? value : value - 256);
    }
    bits = take_little(file, &file->log.payload, VALUE_BYTES[tensor->values_kind]);
    if (tensor->values_kind == VALUES_F16 ? (bits & 0x7c00) == 0x7c00 : !is_finite(bits))
        fail(file, SEEDMASK_PAYLOAD, "values: expected finite numbers, got the bits %08" PRIx32, bits);
    return tensor->values_kind == VALUES_F16 ? widened(bits) : bits;
}

static uint32_t next_scale(seedmask *file)
{
    uint32_t scale = take_little(file, &file->coats.payload, 4), exponent = scale >> 23;
    if (!failed(file) && (exponent < 1 || exponent > 254 || !is_finite(product_bits(scale, 127))))
        fail(file, SEEDMASK_PAYLOAD, "scales: expected positive, normal and finite, times 127 too, got %08" PRIx32,
             scale);
    return scale;
}

/* Weights of the next chunk, from its mask; `scale` is that of the row so far. */
static bool trained_chunk(seedmask *file, const struct tensor *tensor, uint64_t first, size_t count, uint32_t *scale,
                          struct sha256 *sha)
{
    uint64_t columns = tensor->weights / tensor->rows;
    unsigned char bytes[4 * BLOCK];
    for (size_t i = 0; i < count && !failed(file); ++i) {
        size_t at = 4 * (i % BLOCK);
        uint32_t bits = 0;
        if (tensor->values_kind == VALUES_I8 && (first + i) % columns == 0)
            *scale = next_scale(file);
        if (file->kept[i] && !failed(file))
            bits = next_value(file, tensor, *scale);
        memcpy(&file->weights[i], &bits, sizeof bits);
        for (unsigned j = 0; j < 4; ++j)
            bytes[at + j] = (unsigned char)(bits >> 8 * j & 255);
        if (!file->skip_weight_digests && (i % BLOCK == BLOCK - 1 || i + 1 == count))
            sha256_add(sha, bytes, at + 4);
    }
    return !failed(file);
}

static seedmask_code decode(seedmask *file, size_t index, seedmask_float32_sink *float32_sink,
                            seedmask_int8_sink *int8_sink, void *user)
{
    const struct tensor *tensor;
    struct tables tables;
    struct sha256 sha;
    struct progress progress = {0, 0, 0, 0};
    uint32_t scale = 0; /* of a row of trained values */
    if (!begin_call_for(file, index, file->tensor_count, "tensors"))
        return file->code;
    tensor = &file->tensors[index];
    progress.kept_left = tensor->kept;
    progress.free_left = tensor->free;
    set_place(file, "tensors", index, tensor->name);
    if (int8_sink && tensor->values_kind != NO_VALUES)
        fail(file, SEEDMASK_USAGE, "its values were trained, so they are not codes times one scale: ask for float32");
    make_tables(tensor, &tables);
    sha256_start(&sha);
    if (!failed(file))
        open_rows(file, tensor);
    for (uint64_t first = 0; first < tensor->weights && !failed(file); first += CHUNK) {
        size_t count = tensor->weights - first < CHUNK ? (size_t)(tensor->weights - first) : CHUNK;
        int stop = 0;
        next_rows(file, tensor, (uint32_t)index, first, count, &progress);
        if (failed(file))
            return file->code;
        if (tensor->values_kind == NO_VALUES)
            random_chunk(file, tensor, (uint32_t)index, first, count, &tables, &progress, &sha);
        else if (!trained_chunk(file, tensor, first, count, &scale, &sha))
            return file->code;
        if (float32_sink)
            stop = float32_sink(user, file->weights, count);
        else if (int8_sink)
            stop = int8_sink(user, file->codes, count);
        if (stop) {
            fail(file, SEEDMASK_STOPPED, "stopped");
            return file->code;
        }
    }
    if (!failed(file))
        close_rows(file, tensor, &progress);
    if (failed(file) || file->skip_weight_digests)
        return file->code;
    if (file->expanded)
        note_digest(file, &file->tensors[index], &sha);
    else
        check_digest(file, &sha, tensor->sha256, "weights");
    return file->code;
}

seedmask_code seedmask_decode_float32(seedmask *file, size_t index, seedmask_float32_sink *sink, void *user)
{
    return decode(file, index, sink, NULL, user);
}

seedmask_code seedmask_decode_int8(seedmask *file, size_t index, seedmask_int8_sink *sink, void *user)
{
    return decode(file, index, NULL, sink, user);
}

/* Hand out the one value of a state tensor as often as it has items, in the bytes of a window. */
static void repeat_value(seedmask *file, const struct state *state, seedmask_bytes_sink *sink, void *user)
{
    unsigned char *bytes = file->mask.payload.bytes;
    size_t item = DTYPE_BYTES[state->dtype];
    uint64_t value = hex_value(file, state->value, 2 * (int)item);
    for (size_t i = 0; i < WINDOW; ++i)
        bytes[i] = (unsigned char)(value >> 8 * (i % item) & 255);
    for (uint64_t left = state->bytes, part; sink && left > 0; left -= part) {
        part = left < WINDOW ? left : WINDOW;
        if (sink(user, bytes, (size_t)part) != 0) {
            fail(file, SEEDMASK_STOPPED, "stopped");
            return;
        }
    }
}

seedmask_code seedmask_read_state(seedmask *file, size_t index, seedmask_bytes_sink *sink, void *user)
{
    const struct state *state;
    struct window *window = &file->mask.payload;
    unsigned char first[8];
    bool differs = false;
    size_t item;
    if (!begin_call_for(file, index, file->state_count, "state"))
        return file->code;
    state = &file->states[index];
    set_place(file, "state", index, state->name);
    item = DTYPE_BYTES[state->dtype];
    if (state->value) {
        repeat_value(file, state, sink, user);
        return file->code;
    }
    window_open(file, window, state->offset, state->bytes);
    for (bool begins = true; window_left(window) > 0; begins = false) {
        size_t part = window_left(window) < WINDOW ? (size_t)window_left(window) : WINDOW;
        const unsigned char *bytes = window_take(file, window, part);
        if (!bytes)
            return file->code;
        if (begins)
            memcpy(first, bytes, item);
        for (size_t i = 0; i < part && !differs; ++i)
            differs = bytes[i] != first[i % item];
        for (size_t i = 0; state->dtype == 0 && i < part; ++i) {
            if (bytes[i] > 1) {
                fail(file, SEEDMASK_PAYLOAD, "expected bytes 0 and 1 in a BOOL tensor, got %u", (unsigned)bytes[i]);
                return file->code;
            }
        }
        if (sink && sink(user, bytes, part) != 0) {
            fail(file, SEEDMASK_STOPPED, "stopped");
            return file->code;
        }
    }
    if (file->constants && !differs && state->bytes > item)
        fail(file, SEEDMASK_PAYLOAD, "expected one value instead of items that are all the same");
    return file->code;
}

seedmask_code seedmask_verify_payload(seedmask *file)
{
    if (begin_call_for(file, 0, 1, "payload"))
        check_payload(file);
    return file->code;
}
