/* The C interface of omni, stable within a major version.
 *
 *   omni_model_params params = omni_model_default_params();
 *   omni_model* model = NULL;
 *   if (omni_model_open("MiniCPM-o-4_5-Q4_K_M.gguf", &params, &model) != OMNI_OK) {
 *     fprintf(stderr, "%s\n", omni_last_error());
 *   }
 *
 * Every function that can fail returns an omni_status; results come back through pointers, which are
 * untouched on failure. Texts are UTF-8, paths too, on every system. Objects are freed with their own free
 * function, in any order: a cache keeps its model alive, a stream its encoder. A model, an encoder and a
 * tokenizer may be used from many threads, everything else from one thread at a time. Parameter structs come
 * from their default function, so that new members have values.
 */
#ifndef OMNI_OMNI_H
#define OMNI_OMNI_H

#include "omni/export.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum omni_status {
  OMNI_OK = 0,
  OMNI_INVALID_ARGUMENT = 1, /* a value the caller gave is unusable */
  OMNI_FILE = 2,             /* a file is missing or can't be read */
  OMNI_FORMAT = 3,           /* a file's content is damaged or of another model */
  OMNI_UNSUPPORTED = 4,      /* well-formed, but this build or device can't do it */
  OMNI_CONTEXT_FULL = 5,     /* the KV cache has no room for the tokens */
  OMNI_OUT_OF_MEMORY = 6,
  OMNI_DEVICE = 7,    /* a compute device failed or was lost */
  OMNI_CANCELLED = 8, /* stopped on request */
  OMNI_INTERNAL = 9   /* a fault of omni itself */
} omni_status;

/* "0.1.0" */
OMNI_API const char* omni_version(void);
/* A short name of an omni_status, such as "context full"; "unknown status" for any other number. */
OMNI_API const char* omni_status_name(int status);
/* What went wrong in the last call of this thread that failed: which file, tensor or value, and what to do.
 * Valid until the thread's next failing call; never NULL. */
OMNI_API const char* omni_last_error(void);

/* ---- messages ---- */

typedef enum omni_log_level {
  OMNI_LOG_DEBUG = 0,
  OMNI_LOG_INFO = 1,
  OMNI_LOG_WARNING = 2,
  OMNI_LOG_ERROR = 3
} omni_log_level;
typedef void (*omni_log_callback)(omni_log_level level, const char* message, void* user);
/* Sends messages from `minimum` on to `callback`, from any thread; NULL silences (the default). */
OMNI_API void omni_set_log(omni_log_callback callback, omni_log_level minimum, void* user);

/* ---- devices ---- */

typedef struct omni_device_info {
  const char* name; /* for omni_model_params.device; valid until the thread's next call of omni_device_get */
  const char* description;
  const char* kind;      /* "cpu", "gpu", "igpu" or "accel" */
  uint64_t memory_free;  /* bytes, 0 if unknown */
  uint64_t memory_total; /* bytes, 0 if unknown */
} omni_device_info;

OMNI_API size_t omni_device_count(void);
OMNI_API omni_status omni_device_get(size_t index, omni_device_info* info);

/* ---- tokenizer ---- */

typedef struct omni_tokenizer omni_tokenizer;

/* From the language model's GGUF file. */
OMNI_API omni_status omni_tokenizer_open(const char* path, omni_tokenizer** tokenizer);
OMNI_API void omni_tokenizer_free(omni_tokenizer* tokenizer);
OMNI_API int32_t omni_tokenizer_size(const omni_tokenizer* tokenizer);
/* The id of a token by its text, such as "<|im_end|>", or -1. */
OMNI_API int32_t omni_tokenizer_find(const omni_tokenizer* tokenizer, const char* text);
/* Writes at most `capacity` ids; `count` gets the number of ids the text has. Call with capacity 0 to ask for
 * it. */
OMNI_API omni_status omni_tokenize(const omni_tokenizer* tokenizer, const char* text, size_t text_bytes,
                                   int32_t* ids, size_t capacity, size_t* count);
/* Writes at most `capacity` bytes of UTF-8 without a closing 0; `bytes` gets the text's whole size. */
OMNI_API omni_status omni_detokenize(const omni_tokenizer* tokenizer, const int32_t* ids, size_t count,
                                     int skip_special, char* text, size_t capacity, size_t* bytes);

/* ---- language model ---- */

typedef struct omni_model omni_model;
typedef struct omni_cache omni_cache;

typedef struct omni_model_params {
  int32_t n_ctx;             /* positions of a cache, default 4096 */
  int32_t n_batch;           /* rows computed at once, default 512 */
  int32_t n_threads;         /* 0: one for each physical core */
  int32_t poll;              /* 0 (sleep) to 100 (spin), default 1 */
  const char* device;        /* name of a device, "gpu", or NULL for the processor */
  const char* kv_type;       /* "f32", "f16" (default) or "q8_0" */
  const char* weight_format; /* "stored" (default), "bf16" or "q8_0": how float weights are held */
  int32_t repack;            /* 1: quantised weights may be copied into a faster layout (default) */
} omni_model_params;

OMNI_API omni_model_params omni_model_default_params(void);
OMNI_API omni_status omni_model_open(const char* path, const omni_model_params* params, omni_model** model);
OMNI_API void omni_model_free(omni_model* model);
OMNI_API int64_t omni_model_width(const omni_model* model);   /* D, the size of a hidden state */
OMNI_API int64_t omni_model_n_vocab(const omni_model* model); /* V */
OMNI_API int64_t omni_model_n_layers(const omni_model* model);
/* Rows of the embedding table: ids [count] -> out [count, D]. */
OMNI_API omni_status omni_model_embed(const omni_model* model, const int32_t* ids, size_t count, float* out);

/* An empty KV cache of `n_ctx` positions (0: the model's). */
OMNI_API omni_status omni_cache_new(omni_model* model, int64_t n_ctx, omni_cache** cache);
OMNI_API void omni_cache_free(omni_cache* cache);
OMNI_API int64_t omni_cache_length(const omni_cache* cache);
OMNI_API omni_status omni_cache_truncate(omni_cache* cache, int64_t length);
/* Removes rows [first, first + count); the rows behind take their places. */
OMNI_API omni_status omni_cache_remove(omni_cache* cache, int64_t first, int64_t count);

/* Appends tokens to the cache and computes them: prefill with many, decode with one. `hidden` [count, D] and
 * `logits` [V] of the last token may be NULL if they are not wanted. On failure the cache is as before. */
OMNI_API omni_status omni_decode(omni_model* model, omni_cache* cache, const int32_t* ids, size_t count,
                                 float* hidden, float* logits);
/* The same with embeddings [count, D] as input: text, image or audio rows alike. */
OMNI_API omni_status omni_decode_embeds(omni_model* model, omni_cache* cache, const float* embeds,
                                        size_t count, float* hidden, float* logits);

/* ---- vision encoder: pictures to embeddings for omni_decode_embeds ---- */

typedef struct omni_vision omni_vision;

typedef struct omni_vision_params {
  int32_t n_threads;  /* 0: one for each physical core */
  int32_t poll;       /* 0 (sleep) to 100 (spin), default 1 */
  const char* device; /* name of a device, "gpu", or NULL for the processor */
  const char*
      weight_format; /* "stored", "bf16", "q8_0", or "auto" (default): F16 as BF16 where that is fast */
  int32_t repack;    /* 1: quantised weights may be copied into a faster layout (default) */
  int32_t max_batch; /* slices of one shape computed at once; 0: 1 on the processor, 16 elsewhere */
} omni_vision_params;

/* The caller's pixels, 8 bits each for R, G, B; rows from top to bottom. */
typedef struct omni_image {
  const uint8_t* rgb;
  int32_t width;  /* pixels */
  int32_t height; /* pixels */
  size_t stride;  /* bytes from one row to the next; 0: 3 * width */
} omni_image;

/* What an image is cut into: the overview, then, of a large image, the slices of a grid row by row. */
typedef struct omni_slices {
  size_t count;    /* 1 + columns * rows */
  int32_t columns; /* 0 without a grid */
  int32_t rows;
} omni_slices;

OMNI_API omni_vision_params omni_vision_default_params(void);
/* From the vision encoder's GGUF file. */
OMNI_API omni_status omni_vision_open(const char* path, const omni_vision_params* params,
                                      omni_vision** vision);
OMNI_API void omni_vision_free(omni_vision* vision);
OMNI_API int64_t omni_vision_width(const omni_vision* vision);     /* D, that of the language model */
OMNI_API int64_t omni_vision_n_queries(const omni_vision* vision); /* Q, embeddings of a slice: 64 */
/* Encodes the overview and at most `max_slice_nums` slices (1: the overview alone; 9 is usual) and writes at
 * most `capacity` of them to `embeds` [capacity, Q, D]; `slices` gets how many there are. Call with capacity
 * 0 to ask for that; nothing is computed then. */
OMNI_API omni_status omni_vision_encode(const omni_vision* vision, const omni_image* image,
                                        int32_t max_slice_nums, float* embeds, size_t capacity,
                                        omni_slices* slices);

/* ---- audio encoder: sound to embeddings for omni_decode_embeds, ten a second ---- */

typedef struct omni_audio omni_audio;
typedef struct omni_audio_stream omni_audio_stream;

typedef struct omni_audio_params {
  int32_t n_threads;  /* 0: one for each physical core */
  int32_t poll;       /* 0 (sleep) to 100 (spin), default 1 */
  const char* device; /* name of a device, "gpu", or NULL for the processor */
  const char*
      weight_format;   /* "stored", "bf16", "q8_0", or "auto" (default): F16 as BF16 where that is fast */
  int32_t repack;      /* 1: quantised weights may be copied into a faster layout (default) */
  const char* kv_type; /* how a stream keeps keys and values: "f32" or "f16" (default) */
} omni_audio_params;

OMNI_API omni_audio_params omni_audio_default_params(void);
/* From the audio encoder's GGUF file. */
OMNI_API omni_status omni_audio_open(const char* path, const omni_audio_params* params, omni_audio** audio);
OMNI_API void omni_audio_free(omni_audio* audio);
OMNI_API int64_t omni_audio_width(const omni_audio* audio); /* D, that of the language model */
/* Encodes a whole clip: mono samples in [-1, 1] at 16 kHz. A position sees those of its own chunk of
 * `chunk_seconds` (1 is usual) and of earlier ones; 0: all of its piece of 30 s. Writes at most `capacity`
 * rows to `embeds` [capacity, D]; `count` gets the number of rows the clip has. Call with capacity 0 to ask
 * for it; nothing is computed then. */
OMNI_API omni_status omni_audio_encode(const omni_audio* audio, const float* samples, size_t n_samples,
                                       double chunk_seconds, float* embeds, size_t capacity, size_t* count);

/* A stream that encodes sound second by second; 35 ms of zeros are put before the first sample. `mode` is
 * "simplex" (also for NULL), or "duplex": each second sees 20 ms of its neighbours. */
OMNI_API omni_status omni_audio_stream_new(omni_audio* audio, const char* mode, omni_audio_stream** stream);
OMNI_API void omni_audio_stream_free(omni_audio_stream* stream);
/* Takes all samples and writes at most `capacity` of the rows that are ready, [capacity, D]; `count` gets the
 * number that were ready, often 0. What there was no room for stays ready: call again with 0 samples. How the
 * sound is cut into pushes changes nothing. If one is NaN or infinite, none
 * is taken. */
OMNI_API omni_status omni_audio_stream_push(omni_audio_stream* stream, const float* samples, size_t n_samples,
                                            float* embeds, size_t capacity, size_t* count);
/* Ends the stream with what is left of a second; rows come as from omni_audio_stream_push. Reset it before
 * the next sound. */
OMNI_API omni_status omni_audio_stream_flush(omni_audio_stream* stream, float* embeds, size_t capacity,
                                             size_t* count);
/* Forgets everything: a new stream. */
OMNI_API omni_status omni_audio_stream_reset(omni_audio_stream* stream);

/* ---- sampling ---- */

typedef struct omni_sampler omni_sampler;

typedef struct omni_sampler_params {
  int32_t greedy; /* 1: the most likely token, after penalties */
  float temperature;
  int32_t top_k; /* 0: off */
  float top_p;   /* 1: off */
  float repetition_penalty;
  uint64_t seed;
} omni_sampler_params;

/* The published defaults of chat: temperature 0.7, top-k 100, top-p 0.8, penalty 1.02. */
OMNI_API omni_sampler_params omni_sampler_default_params(void);
OMNI_API omni_status omni_sampler_new(int32_t n_vocab, const omni_sampler_params* params,
                                      omni_sampler** sampler);
OMNI_API void omni_sampler_free(omni_sampler* sampler);
/* Chooses the next token from logits [n_vocab] and remembers it for the penalty. */
OMNI_API omni_status omni_sample(omni_sampler* sampler, const float* logits, int32_t* id);

/* ---- speech ---- */

typedef struct omni_voice omni_voice;
typedef struct omni_speech_model omni_speech_model;
typedef struct omni_speech_stream omni_speech_stream;
typedef struct omni_token2wav omni_token2wav;
typedef struct omni_token2wav_stream omni_token2wav_stream;

/* A voice from samples [count] at `rate` Hz, mono, in [-1, 1]: 5 to 15 s of clean speech. `directory` is a
 * model directory with the files speech_tokenizer.gguf and speaker_encoder.gguf in token2wav-gguf. */
OMNI_API omni_status omni_voice_encode(const char* directory, const float* samples, size_t count,
                                       int32_t rate, omni_voice** voice);
/* What omni_voice_save wrote, or an official prompt_cache.gguf. */
OMNI_API omni_status omni_voice_load(const char* path, omni_voice** voice);
OMNI_API omni_status omni_voice_save(const omni_voice* voice, const char* path);
OMNI_API void omni_voice_free(omni_voice* voice);

/* The speech model: hidden states of text tokens in, speech tokens out, 25 a second. `projector` may be NULL:
 * the speech model's file holds the same numbers. */
OMNI_API omni_status omni_speech_model_open(const char* path, const char* projector,
                                            omni_speech_model** model);
OMNI_API void omni_speech_model_free(omni_speech_model* model);
/* One conversation's speech; `mode` is "duplex", "simplex" or "chat". */
OMNI_API omni_status omni_speech_stream_new(omni_speech_model* model, const char* mode, uint64_t seed,
                                            omni_speech_stream** stream);
OMNI_API void omni_speech_stream_free(omni_speech_stream* stream);
/* Takes text tokens [count] and the hidden states [count, D] that the language model gave when each was its
 * input; `last`: the turn's text ends here. */
OMNI_API omni_status omni_speech_push(omni_speech_stream* stream, const int32_t* ids, const float* hidden,
                                      size_t count, int32_t last);
/* Computes up to 25 speech tokens into `tokens` [25]; `count` 0 means that there is nothing until the next
 * push. Call until then. */
OMNI_API omni_status omni_speech_next(omni_speech_stream* stream, int32_t* tokens, size_t* count);

/* Speech tokens to sound: 24 kHz, mono. */
OMNI_API omni_status omni_token2wav_open(const char* directory, omni_token2wav** token2wav);
OMNI_API void omni_token2wav_free(omni_token2wav* token2wav);
/* One voice speaking turn after turn; `steps` of the flow: 10, fewer are faster and less exact. */
OMNI_API omni_status omni_token2wav_stream_new(omni_token2wav* token2wav, const omni_voice* voice,
                                               int32_t steps, uint64_t seed, omni_token2wav_stream** stream);
OMNI_API void omni_token2wav_stream_free(omni_token2wav_stream* stream);
/* Appends speech tokens [count]; `last` ends the turn. The sound that comes of it is kept for
 * omni_token2wav_read. */
OMNI_API omni_status omni_token2wav_push(omni_token2wav_stream* stream, const int32_t* tokens, size_t count,
                                         int32_t last);
/* Takes at most `capacity` samples of what there is; `count` gets their number, 0 if there are none. */
OMNI_API omni_status omni_token2wav_read(omni_token2wav_stream* stream, float* samples, size_t capacity,
                                         size_t* count);

/* ---- full duplex: a session that runs by itself ---- */

typedef struct omni_duplex omni_duplex;

/* The networks of a session, which keeps them alive; sessions may share them. */
typedef struct omni_duplex_parts {
  size_t size;                     /* sizeof(omni_duplex_parts) */
  const omni_tokenizer* tokenizer; /* of the language model's file */
  omni_model* model;
  omni_audio* audio;
  omni_vision* vision;       /* NULL: it doesn't see */
  omni_speech_model* speech; /* one of these three NULL: answers are text only */
  omni_token2wav* token2wav;
  const omni_voice* voice; /* to speak with */
} omni_duplex_parts;

typedef struct omni_duplex_params {
  size_t size;            /* set by the default function */
  const char* prompt;     /* what the model is to be; NULL: the published default */
  const float* reference; /* the voice as a recording that the model hears: mono, 16 kHz; NULL: none */
  size_t n_reference;     /* samples */
  int32_t n_ctx;          /* rows of context; 0: the model's */
  const char* window;     /* how a full context is shortened: "basic" (default), "context", "off" */
  int32_t steps;          /* of the flow, default 10; 5 halve the work */
  int32_t force_listen;   /* so many units listen at first, default 0 */
  int32_t max_speak;      /* text tokens of a unit, default 20 */
  int32_t greedy;         /* 1: always the likeliest token, in text and speech */
  float temperature;      /* of text, default 0.7 */
  int32_t top_k;          /* default 100; 0: off */
  float top_p;            /* default 0.8; 0: off */
  uint64_t seed;
  int32_t real_time;           /* 0: nothing is dropped or degrades, pushing waits while queues are full */
  int32_t max_slice_nums;      /* of each picture, default 1: its overview alone */
  int32_t max_frames_per_unit; /* the latest pictures of a second that count, default 1 */
  int32_t max_queued_units;    /* seconds of input that may wait before the oldest is dropped, default 4 */
} omni_duplex_params;

typedef enum omni_duplex_event_type {
  OMNI_DUPLEX_NOTHING = 0,      /* there was no event in time */
  OMNI_DUPLEX_END = 1,          /* there will be none */
  OMNI_DUPLEX_STATE = 2,        /* the model begins or ends a turn: `speaking` */
  OMNI_DUPLEX_TEXT = 3,         /* new text: `text`, `end_of_turn`; one for each unit that speaks */
  OMNI_DUPLEX_AUDIO = 4,        /* new sound: `samples`, `first`, `last` */
  OMNI_DUPLEX_TURN_END = 5,     /* behind everything else of a turn: `interrupted` */
  OMNI_DUPLEX_UNIT = 6,         /* a unit is done: the measurements */
  OMNI_DUPLEX_DEGRADED = 7,     /* it does less to keep up, or more again: `level`, `text` says why */
  OMNI_DUPLEX_INPUT_DROPPED = 8 /* input was not heard: `seconds` */
} omni_duplex_event_type;

/* What does not belong to the event's type is 0. Pointers are valid until the session's next poll. */
typedef struct omni_duplex_event {
  size_t size; /* sizeof(omni_duplex_event), set by the caller */
  omni_duplex_event_type type;
  int64_t unit;     /* which second of the input, from 0 */
  int64_t epoch;    /* text and sound of an epoch before omni_duplex_epoch() are stale */
  double time;      /* seconds since the session's start */
  int32_t speaking; /* 1: speaking, 0: listening */
  const char* text; /* UTF-8, closed by 0 */
  int32_t end_of_turn;
  const float* samples; /* 24 kHz, mono */
  size_t n_samples;
  int32_t first; /* sound of a turn */
  int32_t last;
  int32_t interrupted;
  double encode_ms; /* work of the stages */
  double decide_ms;
  double speak_ms;
  double render_ms;
  double latency_ms;    /* from the unit's last sample to its decision, or to its sound if it speaks */
  int32_t queued_units; /* that waited for their decision */
  int64_t cache_length;
  int64_t cache_capacity;
  int32_t is_listen;
  int32_t dropped_frames;
  int32_t level; /* 0 full, 1 frames dropped, 2 fewer flow steps, 3 half duplex, 4 text only */
  double seconds;
} omni_duplex_event;

OMNI_API omni_duplex_params omni_duplex_default_params(void);
/* Feeds the prompt and starts the session's threads. The functions below may be called from any thread;
 * omni_duplex_poll from one at a time, omni_duplex_free last. */
OMNI_API omni_status omni_duplex_new(const omni_duplex_parts* parts, const omni_duplex_params* params,
                                     omni_duplex** session);
OMNI_API void omni_duplex_free(omni_duplex* session);
/* Mono samples at 16 kHz as they come, any number. They are cut into units of exactly one second. In real
 * time it never waits. Fails if a sample is NaN or infinite (none is taken then), if the input has ended, if
 * the session is closed, and if a stage has failed. */
OMNI_API omni_status omni_duplex_push_audio(omni_duplex* session, const float* samples, size_t count);
/* A picture of the second that is being collected. */
OMNI_API omni_status omni_duplex_push_frame(omni_duplex* session, const omni_image* image);
/* No more input: what is left of a second is dropped, the events end when what came is answered. */
OMNI_API omni_status omni_duplex_end_input(omni_duplex* session);
/* Ends the turn now: no more of its text and sound comes, and the next unit listens. */
OMNI_API omni_status omni_duplex_interrupt(omni_duplex* session);
/* Stops everything and waits for the threads. */
OMNI_API omni_status omni_duplex_close(omni_duplex* session);
/* The next event; waits for it at most `timeout` seconds. Fails if a stage has failed, behind the events
 * before it. */
OMNI_API omni_status omni_duplex_poll(omni_duplex* session, double timeout, omni_duplex_event* event);
OMNI_API int64_t omni_duplex_epoch(const omni_duplex* session); /* how often it was interrupted */

#ifdef __cplusplus
}
#endif

#endif /* OMNI_OMNI_H */
