/* A command-line program over seedmask.h: list, decode, verify and time a .seedmask file. */
#include "seedmask.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2, MAX_RUNS = 1000 };

static const char USAGE[] = "usage: seedmask FILE [--float32 DIR | --int8 DIR | --verify | --bench [RUNS]]\n"
                            "                [--max-weights N] [--max-header BYTES] [--skip-digests]\n"
                            "\n"
                            "  (no mode)      list the tensors\n"
                            "  --float32 DIR  write weights to DIR/INDEX.f32, little-endian; DIR exists\n"
                            "  --int8 DIR     write codes to DIR/INDEX.i8; a weight is its code times the scale;\n"
                            "                 not of tensors with trained values, which are no codes\n"
                            "                 both also write the other tensors to DIR/state-INDEX.bin\n"
                            "  --verify       check every digest, write nothing\n"
                            "  --bench RUNS   decode all tensors RUNS times (5); print weights per second of CPU time\n"
                            "  --skip-digests do not compare weights with their SHA-256: for a file verified before\n"
                            "\n"
                            "exit codes: 0 done, 1 bad or unreadable file, 2 wrong usage\n";

enum mode { LIST, FLOAT32, INT8, VERIFY, BENCH };

struct arguments {
    const char *path, *folder;
    enum mode mode;
    int runs;
    seedmask_options options;
};

struct input {
    FILE *stream;
};

static int read_input(void *user, uint64_t offset, void *buffer, size_t size)
{
    struct input *input = user;
    return offset > LONG_MAX || fseek(input->stream, (long)offset, SEEK_SET) != 0 ||
           fread(buffer, 1, size, input->stream) != size;
}

/* A sink that writes weights or codes, and one that counts them so that a benchmark decodes something. */

static int write_float32(void *user, const float *weights, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        unsigned char bytes[4];
        uint32_t bits;
        memcpy(&bits, &weights[i], sizeof bits);
        for (unsigned j = 0; j < 4; ++j)
            bytes[j] = (unsigned char)(bits >> 8 * j & 255);
        if (fwrite(bytes, 1, sizeof bytes, user) != sizeof bytes)
            return 1;
    }
    return 0;
}

static int write_int8(void *user, const int8_t *codes, size_t count)
{
    return fwrite(codes, 1, count, user) != count;
}

static int write_bytes(void *user, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, user) != size;
}

static int count_float32(void *user, const float *weights, size_t count)
{
    uint64_t *zeros = user;
    for (size_t i = 0; i < count; ++i)
        *zeros += weights[i] == 0.0F;
    return 0;
}

static int error(const char *path, const char *message)
{
    fprintf(stderr, "error: %s: %s\n", path, message);
    return FAILED;
}

/* Names cannot hold control characters: the library refuses such files. Look again before a terminal sees them. */
static void print_name(const char *name)
{
    for (; *name; ++name)
        putchar((unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name);
}

static void print_shape(const uint64_t *shape, unsigned rank)
{
    for (unsigned i = 0; i < rank; ++i)
        printf("%s%" PRIu64, i ? "x" : "", shape[i]);
    printf("%s", rank ? "" : "scalar");
}

/* What few tensors have. */
static void print_parts(const seedmask_tensor *tensor)
{
    if (tensor->frozen_pruned + tensor->frozen_kept > 0)
        printf("\tfrozen %.4f pruned %.4f kept, %" PRIu64 " free", tensor->frozen_pruned / 65536.0,
               tensor->frozen_kept / 65536.0, tensor->free);
    if (tensor->coats_coding)
        printf("\tcoats %s %" PRIu64 " bytes", tensor->coats_coding, tensor->coats_bytes);
    if (tensor->values_dtype)
        printf("\tvalues %s %s %" PRIu64 " bytes", tensor->values_dtype, tensor->values_coding,
               tensor->values_bytes + tensor->scales_bytes);
}

static int list(seedmask *file, const char *path)
{
    /* static: two tensors would be a large part of a small device's stack */
    static seedmask_tensor tensor;
    static seedmask_state state;
    for (size_t i = 0; i < seedmask_tensors(file); ++i) {
        if (seedmask_describe_tensor(file, i, &tensor) != SEEDMASK_OK)
            return error(path, seedmask_message(file));
        printf("%zu\t", i);
        print_name(tensor.name);
        printf("\t");
        print_shape(tensor.shape, tensor.rank);
        printf("\t%" PRIu64 " weights\t%" PRIu64 " kept\t%s * %.9g\tmask %s %" PRIu64 " bytes\tlog %s", tensor.weights,
               tensor.kept, tensor.codebook, (double)tensor.scale, tensor.mask_coding, tensor.mask_bytes,
               tensor.log_kind);
        if (tensor.log_bytes > 0)
            printf(" %s %" PRIu64 " bytes", tensor.log_coding, tensor.log_bytes);
        print_parts(&tensor);
        printf("\n");
    }
    for (size_t i = 0; i < seedmask_states(file); ++i) {
        if (seedmask_describe_state(file, i, &state) != SEEDMASK_OK)
            return error(path, seedmask_message(file));
        printf("state-%zu\t", i);
        print_name(state.name);
        printf("\t");
        print_shape(state.shape, state.rank);
        printf("\t%s\t%" PRIu64 " bytes\n", state.dtype, state.bytes);
    }
    return DONE;
}

static int verify(seedmask *file, const char *path)
{
    seedmask_code code = seedmask_verify_payload(file);
    for (size_t i = 0; code == SEEDMASK_OK && i < seedmask_tensors(file); ++i)
        code = seedmask_decode_int8(file, i, NULL, NULL);
    for (size_t i = 0; code == SEEDMASK_OK && i < seedmask_states(file); ++i)
        code = seedmask_read_state(file, i, NULL, NULL);
    if (code != SEEDMASK_OK)
        return error(path, seedmask_message(file));
    printf("%zu tensors and %zu state tensors are what was written\n", seedmask_tensors(file), seedmask_states(file));
    return DONE;
}

/* Write one tensor to a file, which is removed again if anything fails. Names of tensors are not used: no file is
 * written outside the folder. */
static int write_one(seedmask *file, const char *path, const struct arguments *arguments, bool is_state, size_t index)
{
    static char name[4096];
    const char *kind = is_state ? "bin" : arguments->mode == FLOAT32 ? "f32" : "i8";
    int length = snprintf(name, sizeof name, "%s/%s%zu.%s", arguments->folder, is_state ? "state-" : "", index, kind);
    seedmask_code code;
    FILE *out;
    if (length < 0 || (size_t)length >= sizeof name)
        return error(path, "the name of the folder is too long");
    out = fopen(name, "wb");
    if (!out)
        return error(name, strerror(errno));
    if (is_state)
        code = seedmask_read_state(file, index, write_bytes, out);
    else if (arguments->mode == FLOAT32)
        code = seedmask_decode_float32(file, index, write_float32, out);
    else
        code = seedmask_decode_int8(file, index, write_int8, out);
    if (fclose(out) == 0 && code == SEEDMASK_OK)
        return DONE;
    remove(name);
    if (code == SEEDMASK_OK || code == SEEDMASK_STOPPED)
        return error(name, "cannot write");
    return error(path, seedmask_message(file));
}

static int write_all(seedmask *file, const struct arguments *arguments)
{
    int result = DONE;
    for (size_t i = 0; result == DONE && i < seedmask_tensors(file); ++i)
        result = write_one(file, arguments->path, arguments, false, i);
    for (size_t i = 0; result == DONE && i < seedmask_states(file); ++i)
        result = write_one(file, arguments->path, arguments, true, i);
    return result;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int bench(seedmask *file, const char *path, int runs)
{
    static seedmask_tensor tensor;
    static double seconds[MAX_RUNS];
    uint64_t weights = 0;
    for (int run = 0; run < runs; ++run) {
        uint64_t zeros = 0;
        clock_t begin = clock();
        weights = 0;
        for (size_t i = 0; i < seedmask_tensors(file); ++i) {
            if (seedmask_describe_tensor(file, i, &tensor) != SEEDMASK_OK ||
                seedmask_decode_float32(file, i, count_float32, &zeros) != SEEDMASK_OK)
                return error(path, seedmask_message(file));
            weights += tensor.weights;
        }
        seconds[run] = (double)(clock() - begin) / CLOCKS_PER_SEC;
    }
    qsort(seconds, (size_t)runs, sizeof *seconds, compare_doubles);
    printf("%" PRIu64 " weights, %d runs, CPU seconds: median %.4f, fastest %.4f, slowest %.4f\n", weights, runs,
           seconds[runs / 2], seconds[0], seconds[runs - 1]);
    if (seconds[runs / 2] > 0)
        printf("%.4g weights a second\n", (double)weights / seconds[runs / 2]);
    return DONE;
}

/* An unsigned decimal number; no sign, no spaces, nothing after it. */
static bool parse_number(const char *text, uint64_t most, uint64_t *number)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (; *text; ++text) {
        unsigned digit = (unsigned)(*text - '0');
        if (*text < '0' || *text > '9' || value > (most - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *number = value;
    return value > 0;
}

static bool parse_arguments(int count, char **values, struct arguments *arguments)
{
    uint64_t number;
    memset(arguments, 0, sizeof *arguments);
    arguments->runs = 5;
    for (int i = 1; i < count; ++i) {
        const char *word = values[i], *next = i + 1 < count ? values[i + 1] : NULL;
        enum mode mode = strcmp(word, "--float32") == 0  ? FLOAT32
                         : strcmp(word, "--int8") == 0   ? INT8
                         : strcmp(word, "--verify") == 0 ? VERIFY
                         : strcmp(word, "--bench") == 0  ? BENCH
                                                         : LIST;
        if (mode != LIST && arguments->mode != LIST)
            return false; /* two modes */
        if (mode == FLOAT32 || mode == INT8) {
            if (!next)
                return false;
            arguments->folder = next;
            ++i;
        } else if (mode == BENCH) {
            if (next && parse_number(next, MAX_RUNS, &number)) {
                arguments->runs = (int)number;
                ++i;
            }
        } else if (strcmp(word, "--max-weights") == 0) {
            if (!next || !parse_number(next, UINT64_MAX, &arguments->options.max_weights))
                return false;
            ++i;
        } else if (strcmp(word, "--max-header") == 0) {
            if (!next || !parse_number(next, SIZE_MAX, &number))
                return false;
            arguments->options.max_header = (size_t)number;
            ++i;
        } else if (strcmp(word, "--skip-digests") == 0) {
            arguments->options.skip_weight_digests = 1;
        } else if (mode == LIST) {
            if (arguments->path || word[0] == '-')
                return false;
            arguments->path = word;
        }
        if (mode != LIST)
            arguments->mode = mode;
    }
    return arguments->path != NULL;
}

static int run(const struct arguments *arguments, seedmask *file, struct input *input)
{
    long size;
    /* the library reads whole windows: buffering would only copy them once more */
    setvbuf(input->stream, NULL, _IONBF, 0);
    if (fseek(input->stream, 0, SEEK_END) != 0 || (size = ftell(input->stream)) < 0 || size == LONG_MAX)
        return error(arguments->path, "cannot seek: expected a regular file");
    if (seedmask_open(file, read_input, input, (uint64_t)size, &arguments->options) != SEEDMASK_OK)
        return error(arguments->path, seedmask_message(file));
    switch (arguments->mode) {
    case FLOAT32:
    case INT8:
        return write_all(file, arguments);
    case VERIFY:
        return verify(file, arguments->path);
    case BENCH:
        return bench(file, arguments->path, arguments->runs);
    default:
        return list(file, arguments->path);
    }
}

int main(int count, char **values)
{
    struct arguments arguments;
    struct input input;
    seedmask *file;
    int result;
    if (count == 2 && strcmp(values[1], "--help") == 0) {
        fputs(USAGE, stdout);
        return DONE;
    }
    if (!parse_arguments(count, values, &arguments)) {
        fputs("error: wrong usage; see seedmask --help\n", stderr);
        return WRONG_USAGE;
    }
    input.stream = fopen(arguments.path, "rb");
    if (!input.stream)
        return error(arguments.path, strerror(errno));
    file = seedmask_create();
    result = file ? run(&arguments, file, &input) : error(arguments.path, "out of memory");
    seedmask_destroy(file);
    fclose(input.stream);
    if (fflush(stdout) != 0 && result == DONE)
        result = error("standard output", "cannot write");
    return result;
}
