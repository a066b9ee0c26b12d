/* Answers a question about a picture: describe MODEL.gguf VISION.gguf PICTURE.ppm QUESTION [TOKENS]
 *
 * Pictures are binary PPM (P6, 8 bits), which needs no library; `convert a.jpg a.ppm` makes one.
 * Built like complete.c.
 */
#include <ctype.h>
#include <omni/omni.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMaxSlices = 9 };

typedef struct session {
  omni_tokenizer* tokenizer;
  omni_model* model;
  omni_cache* cache;
  omni_sampler* sampler;
  omni_vision* vision;
  uint8_t* pixels;
  float* embeds; /* [slices, queries, width] */
  float* logits; /* of the last token */
} session;

static int failed(const char* what, omni_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, omni_status_name(status), omni_last_error());
  return 1;
}

/* A number of a PPM header; comments begin with #. Returns 0 if there is none. */
static int32_t read_number(FILE* file) {
  int c = getc(file);
  while (isspace(c) || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = getc(file);
    }
    c = getc(file);
  }
  int32_t value = 0;
  for (; isdigit(c) && value < 100000; c = getc(file)) value = 10 * value + (c - '0');
  return isspace(c) ? value : 0; /* one space ends the header */
}

static int read_ppm(const char* path, session* s, omni_image* image) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    return 1;
  }
  int code = 1;
  if (getc(file) == 'P' && getc(file) == '6') {
    image->width = read_number(file);
    image->height = read_number(file);
    const int32_t largest = read_number(file);
    const size_t bytes = (size_t)3 * (size_t)image->width * (size_t)image->height;
    if (bytes > 0 && largest == 255 && (s->pixels = malloc(bytes)) != NULL) {
      code = fread(s->pixels, 1, bytes, file) != bytes;
    }
  }
  fclose(file);
  if (code != 0) fprintf(stderr, "%s: not a whole picture in PPM's form P6 with 8 bits\n", path);
  image->rgb = s->pixels;
  image->stride = 0;
  return code;
}

/* Appends a text to what the model has seen. */
static int say(session* s, const char* text) {
  size_t count = 0;
  omni_status status = omni_tokenize(s->tokenizer, text, strlen(text), NULL, 0, &count);
  if (status != OMNI_OK) return failed("text", status);
  if (count == 0) return 0;
  int32_t* ids = malloc(count * sizeof(int32_t));
  if (ids == NULL) {
    fprintf(stderr, "out of memory\n");
    return 1;
  }
  status = omni_tokenize(s->tokenizer, text, strlen(text), ids, count, &count);
  if (status == OMNI_OK) status = omni_decode(s->model, s->cache, ids, count, NULL, s->logits);
  free(ids);
  return status == OMNI_OK ? 0 : failed("text", status);
}

/* Appends one slice's embeddings between their markers. */
static int show(session* s, size_t slice, const char* before, const char* after) {
  const size_t rows = (size_t)omni_vision_n_queries(s->vision);
  const float* embeds = s->embeds + slice * rows * (size_t)omni_vision_width(s->vision);
  if (say(s, before) != 0) return 1;
  const omni_status status = omni_decode_embeds(s->model, s->cache, embeds, rows, NULL, NULL);
  if (status != OMNI_OK) return failed("picture", status);
  return say(s, after);
}

/* The overview, then the slices line by line, as the model was taught. */
static int show_picture(session* s, const omni_image* image) {
  omni_slices slices;
  omni_status status = omni_vision_encode(s->vision, image, kMaxSlices, NULL, 0, &slices);
  if (status != OMNI_OK) return failed("picture", status);
  const size_t rows = slices.count * (size_t)omni_vision_n_queries(s->vision);
  s->embeds = malloc(rows * (size_t)omni_vision_width(s->vision) * sizeof(float));
  if (s->embeds == NULL) {
    fprintf(stderr, "out of memory\n");
    return 1;
  }
  status = omni_vision_encode(s->vision, image, kMaxSlices, s->embeds, slices.count, &slices);
  if (status != OMNI_OK) return failed("picture", status);
  if (show(s, 0, "<image>", "</image>") != 0) return 1;
  for (size_t i = 1; i < slices.count; ++i) {
    const int ends_line = i % (size_t)slices.columns == 0 && i + 1 < slices.count;
    if (show(s, i, "<slice>", ends_line ? "</slice>\n" : "</slice>") != 0) return 1;
  }
  return 0;
}

static int answer(session* s, long n_predict) {
  const int32_t end = omni_tokenizer_find(s->tokenizer, "<|im_end|>");
  for (long i = 0; i < n_predict; ++i) {
    int32_t id = 0;
    omni_status status = omni_sample(s->sampler, s->logits, &id);
    if (status != OMNI_OK) return failed("sample", status);
    if (id == end) break;
    char text[256];
    size_t bytes = 0;
    status = omni_detokenize(s->tokenizer, &id, 1, 1, text, sizeof(text), &bytes);
    if (status == OMNI_OK && bytes <= sizeof(text)) fwrite(text, 1, bytes, stdout);
    if ((status = omni_decode(s->model, s->cache, &id, 1, NULL, s->logits)) != OMNI_OK) {
      return failed("decode", status);
    }
  }
  putchar('\n');
  return 0;
}

static int run(session* s, char** argv, long n_predict) {
  omni_image image;
  omni_status status;
  if (read_ppm(argv[3], s, &image) != 0) return 1;
  if ((status = omni_tokenizer_open(argv[1], &s->tokenizer)) != OMNI_OK) return failed("tokenizer", status);
  if ((status = omni_model_open(argv[1], NULL, &s->model)) != OMNI_OK) return failed("model", status);
  if ((status = omni_vision_open(argv[2], NULL, &s->vision)) != OMNI_OK) return failed("vision", status);
  if (omni_vision_width(s->vision) != omni_model_width(s->model)) {
    fprintf(stderr, "%s was not made for %s\n", argv[2], argv[1]);
    return 1;
  }
  if ((status = omni_cache_new(s->model, 0, &s->cache)) != OMNI_OK) return failed("cache", status);
  omni_sampler_params sampling = omni_sampler_default_params();
  sampling.greedy = 1;
  const int32_t n_vocab = (int32_t)omni_model_n_vocab(s->model);
  if ((status = omni_sampler_new(n_vocab, &sampling, &s->sampler)) != OMNI_OK) {
    return failed("sampler", status);
  }
  if ((s->logits = malloc((size_t)n_vocab * sizeof(float))) == NULL) {
    fprintf(stderr, "out of memory\n");
    return 1;
  }
  if (say(s, "<|im_start|>user\n") != 0 || show_picture(s, &image) != 0 || say(s, "\n") != 0 ||
      say(s, argv[4]) != 0 || say(s, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n") != 0) {
    return 1;
  }
  return answer(s, n_predict);
}

int main(int argc, char** argv) {
  if (argc < 5 || argc > 6) {
    fprintf(stderr, "usage: %s MODEL.gguf VISION.gguf PICTURE.ppm QUESTION [TOKENS]\n", argv[0]);
    return 2;
  }
  session s;
  memset(&s, 0, sizeof(s));
  const int code = run(&s, argv, argc == 6 ? strtol(argv[5], NULL, 10) : 64);
  free(s.logits);
  free(s.embeds);
  free(s.pixels);
  omni_vision_free(s.vision);
  omni_sampler_free(s.sampler);
  omni_cache_free(s.cache);
  omni_model_free(s.model);
  omni_tokenizer_free(s.tokenizer);
  return code;
}
