/* The part of ONNX Runtime's C API that is used.
 *
 * The API is a table of functions to which every release may only append (onnxruntime_c_api.cc, "Rules on how to add a
 * new Ort API version"), so the few that are used are declared here with their place in it, and the library is asked
 * for version 5 of the table (release 1.5, of 2020: the first with I/O bindings and session configuration entries).
 * From release 1.24 on, version 24 can also tell an unknown rank from a scalar.
 */
#ifndef DEEPEN_ORT_API_H
#define DEEPEN_ORT_API_H

#include "model.h"
#include "random.h"

struct status;
struct allocator;
struct binding;
struct environment;
struct memory_info;
struct options;
struct session;
struct tensor_info;
struct type_info;
struct value;

enum { LOG_FATAL = 4, SEQUENTIAL = 0, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0, ONNX_TENSOR = 1, ONNX_STRING = 8 };

/* X(place in the table, name, parameters): functions that return a status, NULL for success. */
#define ORT_FUNCTIONS(X)                                                                                               \
    X(3, create_environment, (int severity, const char *name, struct environment **out))                               \
    X(7, create_session, (const struct environment *, const char *path, const struct options *, struct session **out)) \
    X(10, create_options, (struct options * *out))                                                                     \
    X(13, set_execution_mode, (struct options *, int mode))                                                            \
    X(22, set_log_severity, (struct options *, int severity))                                                          \
    X(23, set_level, (struct options *, int level))                                                                    \
    X(24, set_intra_threads, (struct options *, int threads))                                                          \
    X(25, set_inter_threads, (struct options *, int threads))                                                          \
    X(30, count_inputs, (const struct session *, size_t *out))                                                         \
    X(31, count_outputs, (const struct session *, size_t *out))                                                        \
    X(33, get_input_type, (const struct session *, size_t index, struct type_info **out))                              \
    X(34, get_output_type, (const struct session *, size_t index, struct type_info **out))                             \
    X(36, get_input_name, (const struct session *, size_t index, struct allocator *, char **out))                      \
    X(37, get_output_name, (const struct session *, size_t index, struct allocator *, char **out))                     \
    X(48, create_tensor, (struct allocator *, const int64_t *dims, size_t rank, int type, struct value **out))         \
    X(49, wrap_tensor,                                                                                                 \
      (const struct memory_info *, void *data, size_t bytes, const int64_t *dims, size_t rank, int type,               \
       struct value **out))                                                                                            \
    X(50, is_tensor, (const struct value *, int *out))                                                                 \
    X(52, fill_strings, (struct value *, const char *const *strings, size_t count))                                    \
    X(55, get_tensor_info, (const struct type_info *, const struct tensor_info **out))                                 \
    X(60, get_element_type, (const struct tensor_info *, int *out))                                                    \
    X(61, get_rank, (const struct tensor_info *, size_t *out))                                                         \
    X(62, get_dims, (const struct tensor_info *, int64_t *dims, size_t rank))                                          \
    X(63, get_symbols, (const struct tensor_info *, const char **names, size_t rank))                                  \
    X(65, get_value_info, (const struct value *, struct tensor_info **out))                                            \
    X(69, create_memory_info, (int allocator_type, int memory_type, struct memory_info **out))                         \
    X(76, free_memory, (struct allocator *, void *memory))                                                             \
    X(78, get_allocator, (struct allocator * *out))                                                                    \
    X(124, set_dimension, (struct options *, const char *name, int64_t size))                                          \
    X(130, add_entry, (struct options *, const char *key, const char *value))                                          \
    X(133, run, (struct session *, const void *run_options, const struct binding *))                                   \
    X(134, create_binding, (struct session *, struct binding * *out))                                                  \
    X(136, bind_input, (struct binding *, const char *name, const struct value *))                                     \
    X(137, bind_output, (struct binding *, const char *name, const struct value *))                                    \
    X(138, bind_output_anywhere, (struct binding *, const char *name, const struct memory_info *))                     \
    X(140, get_outputs, (const struct binding *, struct allocator *, struct value ***out, size_t *count))

/* X(place, name, type): functions that release an object, or do nothing for NULL. */
#define ORT_RELEASES(X)                                                                                                \
    X(93, release_status, struct status)                                                                               \
    X(95, release_session, struct session)                                                                             \
    X(96, release_value, struct value)                                                                                 \
    X(98, release_type_info, struct type_info)                                                                         \
    X(99, release_tensor_info, struct tensor_info)                                                                     \
    X(100, release_options, struct options)                                                                            \
    X(135, release_binding, struct binding)

#define ORT_FUNCTION(place, name, parameters) struct status *(*name)parameters;
#define ORT_RELEASE(place, name, type) void (*name)(type *);
struct ort {
    ORT_FUNCTIONS(ORT_FUNCTION)
    ORT_RELEASES(ORT_RELEASE)
    const char *(*get_message)(const struct status *);
    void (*clear_outputs)(struct binding *);
    bool (*has_shape)(const struct tensor_info *); /* NULL before release 1.24 */
};

extern struct ort ort;
extern struct environment *ort_environment;
extern struct memory_info *ort_memory;
extern struct allocator *ort_allocator;

/* An element type; size 0 if an input of it cannot be made. */
struct ort_type {
    const char *name;
    size_t size;
    enum element element;
};

/* By ONNX TensorProto.DataType. */
const struct ort_type *ort_type(int code);

/* Success, or a failure with the runtime's own message. */
bool ort_good(struct status *status, struct failure *failure);

bool ort_open(void *library, struct failure *failure);
const char *ort_version(void);

#endif
