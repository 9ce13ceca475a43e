/*
 * Fuzzes examples/edge/seedmask.c, deterministically and without any fuzzing engine:
 *
 *     fuzz [--exhaustive] [--mutations N] [--seed N] FILE...
 *
 * --exhaustive flips every single bit of every file and truncates it at every byte; all must be refused. --mutations
 * changes the files' payloads, fields and texts and seals the digests again, so that what is behind them is reached.
 * Whatever the input, the decoder must report an error or hand out weights of the SHA-256 that the manifest states,
 * and touch no memory but its own: build with sanitizers (`make -C examples/edge fuzz`).
 *
 * With clang: clang -g -O1 -fsanitize=fuzzer,address,undefined -DSEEDMASK_LIBFUZZER \
 *     -I../examples/edge fuzz.c -o fuzz
 */
#include "seedmask.c" /* for its SHA-256, and to look up where payloads are */

enum { MAX_PARTS = 24, MAX_TEXT = 1 << 16, FUZZ_WEIGHTS = 1 << 20, CODES = SEEDMASK_DIGEST + 1, MODES = 6 };

static const char *const MODE_NAMES[MODES] = {"bit flips",           "truncations", "bytes",
                                              "fields and payloads", "texts",       "directories"};
static uint64_t outcomes[MODES][CODES];
static int mode;
static uint64_t iteration;

static void require(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "fuzz: %s, iteration %" PRIu64 ": %s\n", MODE_NAMES[mode], iteration, what);
    abort();
}

static void *reserve(size_t size)
{
    void *block = malloc(size > 0 ? size : 1);
    require(block != NULL, "out of memory");
    return block;
}

/* ---- The property -------------------------------------------------------------------------------------------- */

struct input {
    const unsigned char *data;
    size_t size;
};

static int read_input(void *user, uint64_t offset, void *buffer, size_t size)
{
    const struct input *input = user;
    require(offset <= input->size && size <= input->size - (size_t)offset, "a read outside the file");
    memcpy(buffer, input->data + (size_t)offset, size);
    return 0;
}

struct collected {
    struct sha256 sha;
    uint64_t count, kept;
    float scale;
};

static void collect(struct collected *collected, const float *weights, size_t count)
{
    static unsigned char bytes[4 * CHUNK];
    for (size_t i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, &weights[i], sizeof bits);
        for (unsigned j = 0; j < 4; ++j)
            bytes[4 * i + j] = (unsigned char)(bits >> 8 * j & 255);
        collected->kept += bits != 0;
    }
    sha256_add(&collected->sha, bytes, 4 * count);
    collected->count += count;
}

static int collect_float32(void *user, const float *weights, size_t count)
{
    collect(user, weights, count);
    return 0;
}

static int collect_int8(void *user, const int8_t *codes, size_t count)
{
    static float weights[CHUNK];
    struct collected *collected = user;
    for (size_t i = 0; i < count; ++i) /* by the host's arithmetic, for once */
        weights[i] = (float)codes[i] * collected->scale;
    collect(collected, weights, count);
    return 0;
}

static void check_message(const seedmask *file, seedmask_code code)
{
    const char *message = seedmask_message(file);
    require(code == SEEDMASK_OK || message[0] != '\0', "an error without a message");
    require(code > SEEDMASK_STOPPED || code == SEEDMASK_OK, "an error that is not the file's");
    for (; *message; ++message)
        require(*message >= 0x20 && *message <= 0x7e, "a message that is not one printable line");
}

/* Decode a tensor, and hash what arrives. `digest` gets the hexadecimal SHA-256. */
static seedmask_code decode_one(seedmask *file, size_t index, bool int8, char digest[65])
{
    seedmask_tensor tensor;
    struct collected collected;
    unsigned char bytes[32];
    seedmask_code code;
    require(seedmask_describe_tensor(file, index, &tensor) == SEEDMASK_OK, "a tensor cannot be described");
    memset(&collected, 0, sizeof collected);
    collected.scale = tensor.scale;
    sha256_start(&collected.sha);
    int8 = int8 && !tensor.values_dtype;
    code = int8 ? seedmask_decode_int8(file, index, collect_int8, &collected)
                : seedmask_decode_float32(file, index, collect_float32, &collected);
    check_message(file, code);
    require(collected.count <= tensor.weights, "more weights than the shape has");
    if (code == SEEDMASK_OK)
        require(collected.count == tensor.weights &&
                    (tensor.values_dtype ? collected.kept <= tensor.kept : collected.kept == tensor.kept),
                "a wrong number of weights"); /* a trained value may be 0 */
    sha256_finish(&collected.sha, bytes);
    to_hex(bytes, digest);
    return code;
}

/*
 * Open and decode whatever is there. Returns the first error. `changed` is the offset of the one byte that differs
 * from a good file, to save time on tensors that cannot be concerned, or 0.
 */
static seedmask_code examine(const unsigned char *data, size_t size, size_t changed)
{
    static bool by_callback;
    seedmask_options options = {0, FUZZ_WEIGHTS, 0};
    seedmask *file = seedmask_create();
    unsigned char *exact = reserve(size); /* so that the sanitizer sees its end */
    struct input input = {exact, size};
    seedmask_code first, code;
    struct sha256 all;
    bool whole;
    require(file != NULL, "out of memory");
    memcpy(exact, data, size);
    by_callback = !by_callback;
    first = by_callback ? seedmask_open(file, read_input, &input, size, &options)
                        : seedmask_open_memory(file, exact, size, &options);
    check_message(file, first);
    require(seedmask_tensors(file) > 0 || first != SEEDMASK_OK, "an open file without tensors");
    whole = first == SEEDMASK_OK && changed == 0;
    sha256_start(&all);
    for (size_t i = 0; i < seedmask_tensors(file); ++i) {
        const struct tensor *tensor = &file->tensors[i];
        uint64_t at = changed - file->data_begin;
        char digest[65];
        uint64_t scales_bytes = tensor->values_kind == VALUES_I8 ? 4 * tensor->rows : 0;
        if (changed >= file->data_begin && at - tensor->mask_offset >= tensor->mask_bytes &&
            at - tensor->log_offset >= tensor->log_bytes && at - tensor->coats_offset >= tensor->coats_bytes &&
            at - tensor->values_offset >= tensor->values_bytes && at - tensor->scales_offset >= scales_bytes)
            continue;
        code = decode_one(file, i, i % 2 == 0, digest);
        require(code != SEEDMASK_OK || !tensor->sha256 || memcmp(digest, tensor->sha256, 64) == 0, "wrong weights");
        sha256_add(&all, tensor->found, 32);
        if (tensor->sha256 || code != SEEDMASK_OK)
            whole = false;
        first = first == SEEDMASK_OK ? code : first;
    }
    if (whole) { /* a compact file has one digest of all tensors */
        char digest[65];
        unsigned char bytes[32];
        sha256_finish(&all, bytes);
        to_hex(bytes, digest);
        require(memcmp(digest, file->weights_text, 64) == 0, "wrong weights in a compact file");
    }
    for (size_t i = 0; i < seedmask_states(file); ++i) {
        seedmask_state state;
        require(seedmask_describe_state(file, i, &state) == SEEDMASK_OK, "a state tensor cannot be described");
        code = seedmask_read_state(file, i, NULL, NULL);
        check_message(file, code);
        first = first == SEEDMASK_OK ? code : first;
    }
    if (file->open) {
        code = seedmask_verify_payload(file);
        check_message(file, code);
        first = first == SEEDMASK_OK ? code : first;
    }
    seedmask_destroy(file);
    free(exact);
    ++outcomes[mode][first];
    return first;
}

#ifdef SEEDMASK_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    examine(data, size, 0);
    return 0;
}

#else

/* ---- Random numbers: splitmix64 ------------------------------------------------------------------------------ */

static uint64_t random_state;

static uint64_t random_bits(void)
{
    uint64_t z = random_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static size_t below(size_t limit)
{
    return (size_t)(random_bits() % limit);
}

/* Numbers at which arithmetic goes wrong. */
static uint64_t odd_number(uint64_t near)
{
    switch (below(6)) {
    case 0:
        return near + 1;
    case 1:
        return near > 0 ? near - 1 : 0;
    case 2:
        return UINT64_C(1) << below(64);
    case 3:
        return (UINT64_C(1) << below(64)) - 1;
    case 4:
        return UINT64_MAX - below(3);
    default:
        return below(300);
    }
}

/* ---- Files as fields and payloads ---------------------------------------------------------------------------- */

struct bytes {
    size_t size;
    unsigned char *at; /* MAX_TEXT of them */
};

struct part {
    char name[80], shape[80];
    const char *codebook, *mask_coding, *log_coding, *kind;
    uint32_t scale;
    uint64_t kept, width;
    char sha256[65];
    const char *coats_coding, *values_coding, *values_dtype; /* NULL: absent */
    uint64_t coats_width, free, fixed_pruned, fixed_kept;    /* no frozen mask if both are 0 */
    struct bytes mask, log, coats, values, scales;
};

struct stored {
    char name[80], shape[80], value[17]; /* no value: the empty text */
    const char *dtype;
    struct bytes content;
};

/* A file taken apart; small ones only. */
struct model {
    uint64_t seed;
    size_t parts, states;
    struct part part[MAX_PARTS];
    struct stored state[MAX_PARTS];
};

static void set_bytes(struct bytes *bytes, const unsigned char *from, uint64_t size)
{
    require(size <= MAX_TEXT, "a seed file with large payloads");
    bytes->size = (size_t)size;
    memcpy(bytes->at, from, bytes->size);
}

/* Everything up to a character, without it. */
static void copy_until(char *to, size_t capacity, const char *from, const char *end)
{
    size_t length = strcspn(from, end);
    require(length < capacity, "a seed file with long texts");
    memcpy(to, from, length);
    to[length] = '\0';
}

static void take_apart(const unsigned char *data, size_t size, struct model *model)
{
    seedmask *file = seedmask_create();
    const unsigned char *payload;
    require(file && seedmask_open_memory(file, data, size, NULL) == SEEDMASK_OK, "a seed file that is not valid");
    require(file->tensor_count <= MAX_PARTS && file->state_count <= MAX_PARTS, "a seed file with many tensors");
    payload = data + file->data_begin;
    model->seed = file->seed;
    model->parts = file->tensor_count;
    model->states = file->state_count;
    for (size_t i = 0; i < model->parts; ++i) {
        const struct tensor *tensor = &file->tensors[i];
        struct part *part = &model->part[i];
        copy_until(part->name, sizeof part->name, tensor->name + 1, "\"");
        copy_until(part->shape, sizeof part->shape, tensor->shape + 1, "]");
        part->codebook = CODEBOOK_NAMES[tensor->codebook];
        part->mask_coding = CODING_NAMES[tensor->mask_coding];
        part->log_coding = CODING_NAMES[tensor->log_coding];
        part->kind = LOG_NAMES[tensor->log_kind];
        part->scale = tensor->scale;
        part->kept = tensor->kept;
        part->width = tensor->log_width;
        require(decode_one(file, i, false, part->sha256) == SEEDMASK_OK, "a seed file that is not valid");
        set_bytes(&part->mask, payload + tensor->mask_offset, tensor->mask_bytes);
        set_bytes(&part->log, payload + tensor->log_offset, tensor->log_bytes);
        part->free = tensor->free;
        part->fixed_pruned = tensor->fixed_pruned;
        part->fixed_kept = tensor->fixed_end - tensor->fixed_pruned;
        part->coats_coding = tensor->coats_width > 0 ? CODING_NAMES[tensor->coats_coding] : NULL;
        part->coats_width = tensor->coats_width;
        set_bytes(&part->coats, payload + tensor->coats_offset, tensor->coats_bytes);
        part->values_dtype = tensor->values_kind == NO_VALUES ? NULL : VALUE_NAMES[tensor->values_kind];
        part->values_coding = CODING_NAMES[tensor->values_coding];
        set_bytes(&part->values, payload + tensor->values_offset, tensor->values_bytes);
        set_bytes(&part->scales, payload + tensor->scales_offset,
                  tensor->values_kind == VALUES_I8 ? 4 * tensor->rows : 0);
    }
    for (size_t i = 0; i < model->states; ++i) {
        const struct state *state = &file->states[i];
        struct stored *stored = &model->state[i];
        copy_until(stored->name, sizeof stored->name, state->name + 1, "\"");
        copy_until(stored->shape, sizeof stored->shape, state->shape + 1, "]");
        stored->dtype = DTYPE_NAMES[state->dtype];
        copy_until(stored->value, sizeof stored->value, state->value ? state->value : "", "\"");
        set_bytes(&stored->content, payload + state->offset, stored_bytes(state));
    }
    seedmask_destroy(file);
}

static struct model *new_model(void)
{
    struct model *model = reserve(sizeof *model);
    for (int i = 0; i < MAX_PARTS; ++i) {
        model->part[i].mask.at = reserve(MAX_TEXT);
        model->part[i].log.at = reserve(MAX_TEXT);
        model->part[i].coats.at = reserve(MAX_TEXT);
        model->part[i].values.at = reserve(MAX_TEXT);
        model->part[i].scales.at = reserve(MAX_TEXT);
        model->state[i].content.at = reserve(MAX_TEXT);
    }
    return model;
}

static void free_model(struct model *model)
{
    for (int i = 0; i < MAX_PARTS; ++i) {
        free(model->part[i].mask.at);
        free(model->part[i].log.at);
        free(model->part[i].coats.at);
        free(model->part[i].values.at);
        free(model->part[i].scales.at);
        free(model->state[i].content.at);
    }
    free(model);
}

/* ---- Putting files together ---------------------------------------------------------------------------------- */

static void add(struct bytes *to, const char *format, ...)
{
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf((char *)to->at + to->size, MAX_TEXT - to->size, format, arguments);
    va_end(arguments);
    require(length >= 0 && (size_t)length < MAX_TEXT - to->size, "a text that is too long");
    to->size += (size_t)length;
}

/* Data tensors in their order, as place_data must find it. */
struct entry {
    unsigned item;
    char key[96], shape[96];
    const char *dtype;
    const struct bytes *content;
    size_t begin;
};

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->item != y->item ? (x->item < y->item) - (x->item > y->item) : strcmp(x->key, y->key);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static struct entry *add_entry(struct entry *entry, const char *prefix, const char *name, const struct bytes *content)
{
    entry->item = 1;
    entry->dtype = "U8";
    entry->content = content;
    snprintf(entry->key, sizeof entry->key, "%s/%s", prefix, name);
    snprintf(entry->shape, sizeof entry->shape, "%zu", content->size);
    return entry + 1;
}

static void set_items(struct entry *entry, const char *dtype, unsigned item)
{
    entry->dtype = dtype;
    entry->item = item;
    snprintf(entry->shape, sizeof entry->shape, "%zu", entry->content->size / item);
}

static size_t list_entries(const struct model *model, struct entry *entries)
{
    struct entry *end = entries;
    for (size_t i = 0; i < model->parts; ++i) {
        const struct part *part = &model->part[i];
        if (strcmp(part->kind, "none") != 0)
            end = add_entry(end, "log", part->name, &part->log);
        end = add_entry(end, "mask", part->name, &part->mask);
        if (part->coats_coding)
            end = add_entry(end, "coats", part->name, &part->coats);
        if (part->values_dtype)
            end = add_entry(end, "values", part->name, &part->values);
        if (part->values_dtype && strcmp(part->values_dtype, "I8") != 0)
            set_items(&end[-1], part->values_dtype, strcmp(part->values_dtype, "F32") == 0 ? 4 : 2);
        else if (part->values_dtype) {
            end = add_entry(end, "scales", part->name, &part->scales);
            set_items(&end[-1], "F32", 4);
        }
    }
    for (size_t i = 0; i < model->states; ++i) {
        const struct stored *stored = &model->state[i];
        if (stored->value[0] != '\0')
            continue;
        end = add_entry(end, "state", stored->name, &stored->content);
        end[-1].dtype = stored->dtype;
        strcpy(end[-1].shape, stored->shape);
        for (int j = 0; j < DTYPES; ++j) {
            if (strcmp(stored->dtype, DTYPE_NAMES[j]) == 0)
                end[-1].item = DTYPE_BYTES[j];
        }
    }
    return (size_t)(end - entries);
}

static bool uses(const struct model *model, const char *feature)
{
    for (size_t i = 0; i < model->parts; ++i) {
        const struct part *part = &model->part[i];
        const char *used[8] = {part->mask_coding,
                               part->log_coding,
                               part->kind,
                               part->coats_coding,
                               part->coats_coding ? "coats" : NULL,
                               part->values_dtype ? part->values_coding : NULL,
                               part->values_dtype ? "values" : NULL,
                               part->fixed_pruned + part->fixed_kept > 0 ? "frozen" : NULL};
        for (int j = 0; j < 8; ++j) {
            if (used[j] && strcmp(used[j], feature) == 0)
                return true;
        }
    }
    for (size_t i = 0; i < model->states; ++i) {
        if (model->state[i].value[0] != '\0' && strcmp(feature, "constants") == 0)
            return true;
    }
    return false;
}

/* The manifest, with zeros for its own digest and 64 digits for the others. */
static void add_manifest(const struct model *model, struct bytes *text, const char *payload, const char *weights)
{
    add(text,
        "{\"architecture\":{\"depth\":[1,{\"x\":null}],\"lr\":1e-05},\"classes\":[\"a\\u00e9\",\"b\"],\"digests\":{"
        "\"manifest\":\"%064d\",\"payload\":\"%s\",\"weights\":\"%s\"},\"format_version\":1,",
        0, payload, weights);
    add(text,
        "\"generator\":\"philox4x32-10\",\"input\":null,\"recipe\":{\"a\\\"b\":true},\"required_features\":[");
    for (int i = 0, any = 0; i < FEATURES; ++i) {
        if (uses(model, FEATURE_NAMES[i]))
            add(text, "%s\"%s\"", any++ ? "," : "", FEATURE_NAMES[i]);
    }
    add(text, "],\"seed\":\"%016" PRIx64 "\",\"state\":[", model->seed);
    for (size_t i = 0; i < model->states; ++i) {
        const struct stored *stored = &model->state[i];
        add(text, "%s{\"dtype\":\"%s\",\"name\":\"%s\",\"shape\":[%s]", i ? "," : "", stored->dtype, stored->name,
            stored->shape);
        if (stored->value[0] != '\0')
            add(text, ",\"value\":\"%s\"", stored->value);
        add(text, "}");
    }
    add(text, "],\"tensors\":[");
    for (size_t i = 0; i < model->parts; ++i) {
        const struct part *part = &model->part[i];
        add(text, "%s{", i ? "," : "");
        if (part->coats_coding)
            add(text, "\"coats\":{\"bytes\":%zu,\"coding\":\"%s\",\"width\":%" PRIu64 "},", part->coats.size,
                part->coats_coding, part->coats_width);
        add(text, "\"codebook\":\"%s\",", part->codebook);
        if (part->fixed_pruned + part->fixed_kept > 0)
            add(text, "\"frozen\":{\"free\":%" PRIu64 ",\"kept\":%" PRIu64 ",\"pruned\":%" PRIu64 "},", part->free,
                part->fixed_kept, part->fixed_pruned);
        add(text,
            "\"kept\":%" PRIu64 ",\"log\":{\"bytes\":%zu,\"coding\":\"%s\",\"kind\":\"%s\","
            "\"width\":%" PRIu64 "},\"mask\":{\"bytes\":%zu,\"coding\":\"%s\"},",
            part->kept, part->log.size, part->log_coding, part->kind, part->width, part->mask.size, part->mask_coding);
        add(text, "\"name\":\"%s\",\"scale\":\"%08" PRIx32 "\",\"sha256\":\"%s\",\"shape\":[%s]", part->name,
            part->scale, part->sha256, part->shape);
        if (part->values_dtype)
            add(text, ",\"values\":{\"bytes\":%zu,\"coding\":\"%s\",\"dtype\":\"%s\"}", part->values.size,
                part->values_coding, part->values_dtype);
        add(text, "}");
    }
    add(text, "]}");
}

/* Write the digest of the manifest into it, if it still has a place for that. */
static void seal(struct bytes *manifest)
{
    static const char KEY[] = "\"manifest\":\"";
    unsigned char digest[32];
    char hex[65], *digits = strstr((char *)manifest->at, KEY);
    struct sha256 sha;
    if (!digits || strlen(digits) < sizeof KEY + 64)
        return;
    digits += sizeof KEY - 1;
    memset(digits, '0', 64);
    sha256_start(&sha);
    sha256_add(&sha, manifest->at, manifest->size);
    sha256_finish(&sha, digest);
    to_hex(digest, hex);
    memcpy(digits, hex, 64);
}

/* Header and data around a manifest; `file` gets the whole. */
static void wrap(const struct bytes *manifest, struct entry *entries, size_t count, struct bytes *file)
{
    size_t length;
    file->size = 8;
    add(file, "{\"__metadata__\":{\"seedmask\":\"");
    for (size_t i = 0; i < manifest->size; ++i) {
        char character = (char)manifest->at[i];
        require(file->size + 2 < MAX_TEXT, "a text that is too long");
        if (character == '"' || character == '\\')
            file->at[file->size++] = '\\';
        file->at[file->size++] = manifest->at[i];
    }
    add(file, "\"}");
    qsort(entries, count, sizeof *entries, by_key);
    for (size_t i = 0; i < count; ++i) {
        const struct entry *entry = &entries[i];
        add(file, ",\"%s\":{\"data_offsets\":[%zu,%zu],\"dtype\":\"%s\",\"shape\":[%s]}", entry->key, entry->begin,
            entry->begin + entry->content->size, entry->dtype, entry->shape);
    }
    add(file, "}");
    while (file->size % 8 != 0)
        add(file, " ");
    length = file->size - 8;
    for (unsigned i = 0; i < 8; ++i)
        file->at[i] = (unsigned char)((uint64_t)length >> 8 * i & 255);
    qsort(entries, count, sizeof *entries, by_place);
    for (size_t i = 0; i < count; ++i) {
        require(entries[i].content->size <= MAX_TEXT - file->size, "a file that is too long");
        memcpy(file->at + file->size, entries[i].content->at, entries[i].content->size);
        file->size += entries[i].content->size;
    }
}

static size_t place_entries(struct entry *entries, size_t count, char digest[65])
{
    unsigned char bytes[32];
    struct sha256 sha;
    size_t begin = 0;
    qsort(entries, count, sizeof *entries, by_place);
    sha256_start(&sha);
    for (size_t i = 0; i < count; ++i) {
        entries[i].begin = begin;
        begin += entries[i].content->size;
        sha256_add(&sha, entries[i].content->at, entries[i].content->size);
    }
    sha256_finish(&sha, bytes);
    to_hex(bytes, digest);
    return begin;
}

static void weights_digest(const struct model *model, char digest[65])
{
    unsigned char bytes[32];
    struct sha256 sha;
    sha256_start(&sha);
    for (size_t i = 0; i < model->parts; ++i) {
        for (int j = 0; j < 32; ++j)
            bytes[j] = (unsigned char)(hex_digits(model->part[i].sha256 + 2 * j, 2) & 255);
        sha256_add(&sha, bytes, 32);
    }
    sha256_finish(&sha, bytes);
    to_hex(bytes, digest);
}

/* ---- Mutations ----------------------------------------------------------------------------------------------- */

static void mutate_bytes(struct bytes *bytes, size_t front)
{
    size_t at;
    if (bytes->size == 0)
        return;
    at = below(bytes->size);
    if (front > 0 && below(2) == 0) /* heads are short and decide much */
        at = below(bytes->size < front ? bytes->size : front);
    switch (below(5)) {
    case 0:
    case 1:
        bytes->at[at] ^= (unsigned char)(1U << below(8));
        break;
    case 2:
        bytes->at[at] = (unsigned char)odd_number(bytes->at[at]);
        break;
    case 3: { /* splice */
        size_t from = below(bytes->size), most = bytes->size - (from > at ? from : at);
        memmove(bytes->at + at, bytes->at + from, 1 + below(most < 16 ? most : 16));
        break;
    }
    default: { /* insert or delete up to 6 bytes, or cut the end off */
        size_t count = 1 + below(6), rest = bytes->size - at;
        if (below(3) == 0)
            count = rest;
        if (below(2) == 0 && bytes->size + count < MAX_TEXT / 16) {
            memmove(bytes->at + at + count, bytes->at + at, rest);
            bytes->size += count;
        } else {
            count = count < rest ? count : rest;
            memmove(bytes->at + at, bytes->at + at + count, rest - count);
            bytes->size -= count;
        }
    }
    }
}

/* Change frequencies, keeping their sum, or any number in the head of an entropy coded payload. */
static void mutate_head(struct bytes *bytes, const char *coding, uint64_t width)
{
    uint64_t numbers[2 + MAX_CLASSES];
    struct row row;
    struct bytes head = {0, NULL};
    unsigned char buffer[6 * (2 + MAX_CLASSES) + 1];
    size_t at = 0, count = 0, first = 1;
    row.coding = strcmp(coding, "gaps") == 0 ? GAPS : RANS;
    row.width = width >= 1 && width <= 8 ? (unsigned)width : 1;
    head.at = buffer;
    if (strcmp(coding, "raw") == 0 || bytes->size < 2)
        return;
    if (row.coding == GAPS) {
        buffer[head.size++] = bytes->at[at++];
        first = 2;
    }
    set_classes(&row, row.coding == GAPS ? buffer[0] % 7 : 0);
    for (; count < first + row.classes && at < bytes->size; ++count) {
        numbers[count] = 0;
        for (unsigned shift = 0; at < bytes->size && shift < 42; shift += 7) {
            unsigned char byte = bytes->at[at++];
            numbers[count] |= (uint64_t)(byte & 127) << shift;
            if (byte < 128)
                break;
        }
    }
    if (below(4) == 0) {
        size_t which = below(count);
        numbers[which] = odd_number(numbers[which]);
    } else if (count == first + row.classes) {
        size_t a = below(row.classes), b = below(row.classes);
        uint64_t members_a = (uint64_t)(row.first_symbol[a + 1] - row.first_symbol[a]);
        uint64_t members_b = (uint64_t)(row.first_symbol[b + 1] - row.first_symbol[b]);
        if (a != b && numbers[first + a] >= members_b) {
            numbers[first + a] -= members_b;
            numbers[first + b] += members_a;
        }
    }
    for (size_t i = 0; i < count; ++i) {
        uint64_t value = numbers[i] & ((UINT64_C(1) << 42) - 1);
        do {
            buffer[head.size++] = (unsigned char)((value & 127) | (value > 127 ? 128 : 0));
            value >>= 7;
        } while (value > 0);
    }
    if (bytes->size - at + head.size >= MAX_TEXT / 16)
        return;
    memmove(bytes->at + head.size, bytes->at + at, bytes->size - at);
    memcpy(bytes->at, buffer, head.size);
    bytes->size = bytes->size - at + head.size;
}

static void mutate_model(struct model *model)
{
    struct part *part = &model->part[below(model->parts)], *other = &model->part[below(model->parts)];
    switch (below(28)) {
    case 20:
        part->free = odd_number(part->free);
        break;
    case 21: /* sums that overflow are no use: they only say that there is no frozen mask */
        part->fixed_pruned = odd_number(part->fixed_pruned) & UINT32_MAX;
        break;
    case 22:
        part->fixed_kept = odd_number(part->fixed_kept) & UINT32_MAX;
        break;
    case 23:
        part->coats_coding = below(2) ? CODING_NAMES[below(CODINGS)] : NULL;
        part->coats_width = below(9);
        if (below(2) == 0)
            set_bytes(&part->coats, other->log.at, other->log.size);
        break;
    case 24:
        mutate_bytes(&part->coats, 24);
        if (part->coats_coding)
            mutate_head(&part->coats, part->coats_coding, part->coats_width);
        break;
    case 25:
        part->values_dtype = below(3) ? VALUE_NAMES[below(VALUE_KINDS)] : NULL;
        part->values_coding = below(2) ? "raw" : CODING_NAMES[below(CODINGS)];
        break;
    case 26:
        mutate_bytes(&part->values, 24);
        if (below(2) == 0)
            mutate_head(&part->values, part->values_coding, 8);
        break;
    case 27:
        mutate_bytes(&part->scales, 4);
        break;
    case 0:
        part->kept = odd_number(part->kept);
        break;
    case 1:
        snprintf(part->shape, sizeof part->shape, "%" PRIu64, odd_number(part->kept));
        break;
    case 2:
        snprintf(part->shape, sizeof part->shape, "%" PRIu64 ",%" PRIu64, odd_number(1), odd_number(7));
        break;
    case 3:
        part->mask_coding = CODING_NAMES[below(CODINGS)];
        break;
    case 4:
        part->log_coding = CODING_NAMES[below(CODINGS)];
        break;
    case 5:
        part->kind = LOG_NAMES[below(LOG_KINDS)];
        break;
    case 6:
        part->width = below(10);
        break;
    case 7:
        part->codebook = CODEBOOK_NAMES[below(CODEBOOKS)];
        break;
    case 8:
        part->scale ^= UINT32_C(1) << below(32);
        break;
    case 9:
        if (below(2) == 0)
            memmove(part->name, other->name, sizeof part->name);
        else
            strcpy(part->name, "\\u00e9\\u4e2d\\ud83d\\ude00");
        break;
    case 10:
        set_bytes(&part->mask, other->log.at, other->log.size);
        break;
    case 11: /* a log of its own, for its length is free */
        set_bytes(&part->log, other->mask.at, other->mask.size);
        part->kind = "flips";
        part->width = 1;
        break;
    case 12:
        if (model->states > 0) {
            struct stored *stored = &model->state[below(model->states)];
            size_t dtype = below(DTYPES);
            snprintf(stored->shape, sizeof stored->shape, "%" PRIu64, odd_number(stored->content.size));
            stored->dtype = DTYPE_NAMES[dtype];
            snprintf(stored->value, sizeof stored->value, "%0*" PRIx64, 2 * (int)DTYPE_BYTES[dtype],
                     random_bits() >> (64 - 8 * DTYPE_BYTES[dtype]));
            if (below(2) == 0)
                stored->value[below(sizeof stored->value)] = '\0';
            if (below(2) == 0)
                stored->value[0] = '\0';
        }
        break;
    case 13:
    case 14:
        mutate_bytes(&part->log, 24);
        break;
    case 15:
        mutate_head(&part->log, part->log_coding, part->width);
        break;
    case 16:
    case 17:
        mutate_head(&part->mask, part->mask_coding, 1);
        break;
    default:
        mutate_bytes(&part->mask, 24);
    }
}

/* Integers and words of a text become others; characters, spans and nesting change. */
static void mutate_text(struct bytes *text)
{
    static const char *const VALUES[] = {
        "null", "[]", "{}", "\"\"", "0", "01", "-0", "1.5", "1e999", "18446744073709551616", "[[[[[[[[[[[[[[[[[[",
        "\"\\ud800\"", "\"\\u001b\"", "\"raw\"", "\"rans\"", "\"gaps\"", "\"tans\"", "\\", ",", ":", "}"};
    size_t at = below(text->size), length = 1 + below(4);
    const char *word = VALUES[below(sizeof VALUES / sizeof *VALUES)];
    char number[24];
    switch (below(4)) {
    case 0: /* another number in place of one */
        while (at < text->size && (text->at[at] < '0' || text->at[at] > '9'))
            ++at;
        for (length = 0; at + length < text->size && text->at[at + length] >= '0' && text->at[at + length] <= '9';)
            ++length;
        snprintf(number, sizeof number, "%" PRIu64, odd_number(below(100)));
        word = number;
        break;
    case 1: /* another character */
        text->at[at] = (unsigned char)(0x20 + below(0x5f));
        return;
    case 2: /* a deletion */
        word = "";
        break;
    default: /* a value for another one */
        while (at > 0 && text->at[at - 1] != ':')
            --at;
        length = strcspn((const char *)text->at + at, ",}");
    }
    if (at + length > text->size)
        length = text->size - at;
    if (text->size + strlen(word) >= MAX_TEXT / 4)
        return;
    memmove(text->at + at + strlen(word), text->at + at + length, text->size - at - length + 1);
    memcpy(text->at + at, word, strlen(word));
    text->size += strlen(word) - length;
}

/* Give the tensors the digests of what decodes now: a different file, but a right one. */
static bool reseal_weights(const struct bytes *file, struct model *model)
{
    seedmask_options options = {0, FUZZ_WEIGHTS, 1};
    seedmask *opened = seedmask_create();
    bool decoded;
    require(opened != NULL, "out of memory");
    decoded = seedmask_open_memory(opened, file->at, file->size, &options) == SEEDMASK_OK;
    for (size_t i = 0; decoded && i < model->parts; ++i)
        decoded = decode_one(opened, i, false, model->part[i].sha256) == SEEDMASK_OK;
    for (size_t i = 0; decoded && i < model->states; ++i)
        decoded = seedmask_read_state(opened, i, NULL, NULL) == SEEDMASK_OK;
    seedmask_destroy(opened);
    return decoded;
}

static void build(const struct model *model, struct bytes *manifest, struct bytes *file, int text_mutations)
{
    struct entry entries[6 * MAX_PARTS];
    char payload[65], weights[65];
    size_t count = list_entries(model, entries);
    place_entries(entries, count, payload);
    weights_digest(model, weights);
    manifest->size = 0;
    add_manifest(model, manifest, payload, weights);
    for (int i = 0; i < text_mutations; ++i)
        mutate_text(manifest);
    seal(manifest);
    wrap(manifest, entries, count, file);
}

/* Change the directory of a compact file, and give its data the digest and the size that they have now. */
static void mutate_directory(const struct bytes *seed_file, struct bytes *section, struct bytes *file)
{
    static const char SIZE[] = "\"data_offsets\":[0,";
    char header[512], *size;
    unsigned char digest[32];
    struct sha256 sha;
    uint64_t length = 0;
    for (unsigned i = 0; i < 8; ++i)
        length |= (uint64_t)seed_file->at[i] << 8 * i;
    require(length < sizeof header, "a compact seed file with a long header");
    memcpy(header, seed_file->at + 8, (size_t)length);
    header[length] = '\0';
    size = strstr(header, SIZE);
    require(size != NULL, "a compact seed file without data");
    size[sizeof SIZE - 1] = '\0';
    set_bytes(section, seed_file->at + 8 + length + 32, seed_file->size - 40 - length);
    for (size_t i = 0; i <= below(3); ++i)
        mutate_bytes(section, below(2) ? 64 : 0);
    sha256_start(&sha);
    sha256_add(&sha, section->at, section->size);
    sha256_finish(&sha, digest);
    file->size = 8;
    add(file, "%s%zu],\"dtype\":\"U8\",\"shape\":[%zu]}}", header, section->size + 32, section->size + 32);
    while (file->size % 8 != 0)
        add(file, " ");
    for (unsigned i = 0; i < 8; ++i)
        file->at[i] = (unsigned char)((uint64_t)(file->size - 8) >> 8 * i & 255);
    memcpy(file->at + file->size, digest, 32);
    memcpy(file->at + file->size + 32, section->at, section->size);
    file->size += 32 + section->size;
}

static bool is_compact(const struct bytes *file)
{
    static const char BEGIN[] = "{\"__metadata__\":{\"seedmask\":\"{\\\"format_version\\\":1,";
    return file->size > sizeof BEGIN + 8 && memcmp(file->at + 8, BEGIN, sizeof BEGIN - 1) == 0;
}

static void mutate(const struct bytes *seed_file, struct bytes *manifest, struct bytes *file, struct model *model)
{
    mode = 2 + (int)below(8);
    if (mode == 2) {
        set_bytes(file, seed_file->at, seed_file->size);
        for (size_t i = 0; i <= below(4); ++i)
            mutate_bytes(file, 0);
        if (examine(file->at, file->size, 0) == SEEDMASK_OK) /* a splice may change nothing */
            require(file->size == seed_file->size && memcmp(file->at, seed_file->at, file->size) == 0,
                    "a changed file is accepted");
        return;
    }
    if (mode > 4 && is_compact(seed_file)) {
        mode = 5;
        mutate_directory(seed_file, manifest, file);
        examine(file->at, file->size, 0);
        return;
    }
    take_apart(seed_file->at, seed_file->size, model);
    if (mode == 4) {
        build(model, manifest, file, 1 + (int)below(2));
        examine(file->at, file->size, 0);
        return;
    }
    mode = 3;
    for (size_t i = 0; i <= below(3); ++i)
        mutate_model(model);
    build(model, manifest, file, 0);
    examine(file->at, file->size, 0);
    if (reseal_weights(file, model)) {
        build(model, manifest, file, 0);
        require(examine(file->at, file->size, 0) == SEEDMASK_OK, "a sealed file is refused");
    }
}

/* ---- The program --------------------------------------------------------------------------------------------- */

static struct bytes new_bytes(void)
{
    struct bytes bytes = {0, NULL};
    bytes.at = reserve(MAX_TEXT);
    return bytes;
}

static struct bytes load(const char *path)
{
    struct bytes file = new_bytes();
    FILE *stream = fopen(path, "rb");
    require(stream != NULL, "a file cannot be opened");
    file.size = fread(file.at, 1, MAX_TEXT, stream);
    require(file.size < MAX_TEXT, "a seed file that is too long");
    fclose(stream);
    require(examine(file.at, file.size, 0) == SEEDMASK_OK, "a seed file that is not valid");
    return file;
}

static void exhaust(struct bytes *file)
{
    mode = 0;
    for (iteration = 0; iteration < 8 * file->size; ++iteration) {
        size_t at = (size_t)(iteration / 8);
        unsigned char bit = (unsigned char)(1U << iteration % 8);
        file->at[at] ^= bit;
        require(examine(file->at, file->size, at) != SEEDMASK_OK, "a flipped bit is not noticed");
        file->at[at] ^= bit;
    }
    mode = 1;
    for (iteration = 0; iteration < file->size; ++iteration)
        require(examine(file->at, (size_t)iteration, 0) != SEEDMASK_OK, "a truncation is not noticed");
}

static void report(void)
{
    static const char *const NAMES[CODES] = {"accepted",  "usage", "memory",  "read",    "stopped",  "limit",
                                             "container", "json",  "version", "feature", "manifest", "payload",
                                             "digest"};
    for (int i = 0; i < MODES; ++i) {
        uint64_t total = 0;
        for (int j = 0; j < CODES; ++j)
            total += outcomes[i][j];
        if (total == 0)
            continue;
        printf("%s: %" PRIu64, MODE_NAMES[i], total);
        for (int j = 0; j < CODES; ++j) {
            if (outcomes[i][j] > 0)
                printf(", %s %" PRIu64, NAMES[j], outcomes[i][j]);
        }
        printf("\n");
    }
}

int main(int count, char **values)
{
    struct model *model = new_model();
    struct bytes manifest = new_bytes(), file = new_bytes();
    struct bytes seeds[32];
    size_t files = 0;
    uint64_t mutations = 0, seed = 0;
    bool exhaustive = false;
    for (int i = 1; i < count; ++i) {
        if (strcmp(values[i], "--exhaustive") == 0)
            exhaustive = true;
        else if (strcmp(values[i], "--mutations") == 0 && i + 1 < count)
            mutations = strtoull(values[++i], NULL, 10);
        else if (strcmp(values[i], "--seed") == 0 && i + 1 < count)
            seed = strtoull(values[++i], NULL, 10);
        else if (files < sizeof seeds / sizeof *seeds)
            seeds[files++] = load(values[i]);
    }
    if (files == 0) {
        fputs("usage: fuzz [--exhaustive] [--mutations N] [--seed N] FILE...\n", stderr);
        return 2;
    }
    memset(outcomes, 0, sizeof outcomes);
    for (size_t i = 0; exhaustive && i < files; ++i)
        exhaust(&seeds[i]);
    for (iteration = 0; iteration < mutations; ++iteration) {
        random_state = seed * UINT64_C(0x2545F4914F6CDD1D) + iteration; /* each can be repeated */
        mutate(&seeds[below(files)], &manifest, &file, model);
    }
    report();
    for (size_t i = 0; i < files; ++i)
        free(seeds[i].at);
    free(manifest.at);
    free(file.at);
    free_model(model);
    return 0;
}

#endif
