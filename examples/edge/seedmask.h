/*
 * Reads .seedmask files (format version 1, docs/FORMAT.md) with nothing but the C99 standard library.
 *
 * A file is read piece by piece through a callback, and a tensor is handed out chunk by chunk through another, so both
 * may be far larger than memory. Memory: one fixed block (about 47 KiB on a 64-bit machine), the header of the file
 * (capped by `max_header`), and tables of at most 208 bytes a tensor; of a compact file the directory stands in memory as
 * the manifest in JSON. All of it is allocated by `seedmask_create` and `seedmask_open`, nothing while decoding. Threads may use different `seedmask` objects at once, but not the same one.
 *
 * Files are not trusted: whatever is in them, these functions return a code and leave a line of text for a person in
 * `seedmask_message`. A decoded tensor has been compared with its SHA-256. A compact file has one of all tensors: opening
 * it compares the data with their digest, and decoding the last tensor compares the weights of all with theirs.
 */
#ifndef SEEDMASK_H
#define SEEDMASK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SEEDMASK_MAX_RANK 16
#define SEEDMASK_MAX_NAME 512 /* bytes of UTF-8 */

/* What went wrong. Values are never renumbered. */
typedef enum seedmask_code {
    SEEDMASK_OK = 0,
    SEEDMASK_USAGE = 1,     /* no file is open, or there is no such tensor */
    SEEDMASK_MEMORY = 2,    /* out of memory */
    SEEDMASK_READ = 3,      /* the read callback failed */
    SEEDMASK_STOPPED = 4,   /* a sink asked to stop */
    SEEDMASK_LIMIT = 5,     /* larger than the options allow */
    SEEDMASK_CONTAINER = 6, /* not a .seedmask file, truncated, or header and manifest disagree */
    SEEDMASK_JSON = 7,      /* the manifest is not canonical JSON */
    SEEDMASK_VERSION = 8,   /* written by a newer version */
    SEEDMASK_FEATURE = 9,   /* needs a feature or a coding that this decoder does not know */
    SEEDMASK_MANIFEST = 10, /* a field of the manifest has an impossible value */
    SEEDMASK_PAYLOAD = 11,  /* a mask, a log or a state tensor is malformed */
    SEEDMASK_DIGEST = 12    /* well-formed, but not what was written */
} seedmask_code;

typedef struct seedmask seedmask;

/* Limits for files that are not trusted. Zeros mean the defaults. */
typedef struct seedmask_options {
    size_t max_header;       /* bytes of header, directory, and manifest; 0: 16 MiB. The format allows 100,000,000 */
    uint64_t max_weights;    /* of all tensors together, 4 bytes of a state tensor of one value as one; 0: 1024 a byte of the file, 2**24 to 2**33 */
    int skip_weight_digests; /* not 0: faster, for a file whose tensors have been checked before */
} seedmask_options;

/* A masked tensor. */
typedef struct seedmask_tensor {
    char name[SEEDMASK_MAX_NAME + 1]; /* UTF-8 without control characters; not fit to be a file name */
    unsigned rank;
    uint64_t shape[SEEDMASK_MAX_RANK];
    uint64_t weights; /* product of the shape */
    uint64_t kept;    /* weights that are not pruned */
    const char *codebook, *mask_coding, *log_kind, *log_coding; /* as in the manifest */
    uint64_t mask_bytes, log_bytes;                             /* stored sizes */
    float scale;                                                /* weight = code * scale */
    unsigned frozen_pruned, frozen_kept; /* 65536ths of the mask that the seed fixes; 0 if it fixes none */
    uint64_t free;                       /* mask bits that are stored */
    const char *coats_coding;            /* NULL: a code is no multiple */
    uint64_t coats_bytes;
    const char *values_dtype, *values_coding; /* "F32", "F16" or "I8"; NULL: weights were not trained */
    uint64_t values_bytes, scales_bytes;
} seedmask_tensor;

/* A tensor that is stored as it is, or as the one value of all its items. */
typedef struct seedmask_state {
    char name[SEEDMASK_MAX_NAME + 1];
    unsigned rank;
    uint64_t shape[SEEDMASK_MAX_RANK];
    const char *dtype; /* "F32", "I64", ... */
    uint64_t bytes;    /* product of the shape, times the bytes of an item */
} seedmask_state;

/* Fill `buffer` with `size` bytes (1 to 2048, or the whole header or directory) of the file from `offset`; 0 means done. */
typedef int seedmask_read(void *user, uint64_t offset, void *buffer, size_t size);

/*
 * Take the next values of a tensor, in row-major order; 0 means go on. The buffer is used again after the call.
 * Nothing is certain before decoding has returned SEEDMASK_OK: until then, keep what arrives away from use.
 */
typedef int seedmask_float32_sink(void *user, const float *weights, size_t count);
typedef int seedmask_int8_sink(void *user, const int8_t *codes, size_t count);
typedef int seedmask_bytes_sink(void *user, const void *bytes, size_t size);

/* A new object without a file, or NULL if there is no memory. */
seedmask *seedmask_create(void);

/* Free everything. NULL is fine. */
void seedmask_destroy(seedmask *file);

/*
 * Open a file of `size` bytes: read and check header and manifest, and of a compact file the digest of the data. A file that was open before is
 * closed. `user` must stay valid as long as the file is in use. `options` may be NULL.
 */
seedmask_code seedmask_open(seedmask *file, seedmask_read *read, void *user, uint64_t size,
                            const seedmask_options *options);

/* The same for a file in memory, which must stay there. */
seedmask_code seedmask_open_memory(seedmask *file, const void *data, size_t size, const seedmask_options *options);

/* One line of printable ASCII about the last call that failed: place, what was expected, what there was. */
const char *seedmask_message(const seedmask *file);

/* How many masked tensors and how many state tensors the open file has. */
size_t seedmask_tensors(const seedmask *file);
size_t seedmask_states(const seedmask *file);

/* Describe one of them; the index counts from 0. Texts other than the name are constants. */
seedmask_code seedmask_describe_tensor(seedmask *file, size_t index, seedmask_tensor *tensor);
seedmask_code seedmask_describe_state(seedmask *file, size_t index, seedmask_state *state);

/*
 * The manifest, canonical JSON in printable ASCII (of a compact file, made from its directory: without digests, and with
 * numbers perhaps in another notation), with input normalisation, class names and whatever else this
 * library has no use for. Valid until the file is closed.
 */
const char *seedmask_manifest(const seedmask *file, size_t *length);

/*
 * Decode a masked tensor: as weights, or as codes from -127 to 127, where 0 is a pruned weight and a weight is its
 * code times the scale. Without a sink (NULL), the tensor is only checked. Trained values are no codes times one scale:
 * of such a tensor, codes are refused with SEEDMASK_USAGE.
 */
seedmask_code seedmask_decode_float32(seedmask *file, size_t index, seedmask_float32_sink *sink, void *user);
seedmask_code seedmask_decode_int8(seedmask *file, size_t index, seedmask_int8_sink *sink, void *user);

/* Hand out the bytes of a state tensor, little-endian as in the file. Its digest is the payload's. */
seedmask_code seedmask_read_state(seedmask *file, size_t index, seedmask_bytes_sink *sink, void *user);

/* Compare the data section with its SHA-256: one pass over the file. State tensors have no digest of their own. */
seedmask_code seedmask_verify_payload(seedmask *file);

#ifdef __cplusplus
}
#endif

#endif
