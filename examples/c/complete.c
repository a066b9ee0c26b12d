/* Continues a text with a language model: complete MODEL.gguf "text" [tokens]
 *
 * Built against an installed omni:
 *   cmake -S examples/c -B build-example -DCMAKE_PREFIX_PATH=PREFIX && cmake --build build-example
 */
#include <omni/omni.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char* what, omni_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, omni_status_name(status), omni_last_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: %s MODEL.gguf TEXT [TOKENS]\n", argv[0]);
    return 2;
  }
  const long n_predict = argc == 4 ? strtol(argv[3], NULL, 10) : 32;
  int code = 1;
  omni_status status;
  omni_tokenizer* tokenizer = NULL;
  omni_model* model = NULL;
  omni_cache* cache = NULL;
  omni_sampler* sampler = NULL;
  float* logits = NULL;
  int32_t* ids = NULL;
  size_t count = 0;

  if ((status = omni_tokenizer_open(argv[1], &tokenizer)) != OMNI_OK) return failed("tokenizer", status);
  omni_model_params params = omni_model_default_params();
  if ((status = omni_model_open(argv[1], &params, &model)) != OMNI_OK) {
    code = failed("model", status);
    goto done;
  }
  if ((status = omni_cache_new(model, 0, &cache)) != OMNI_OK) {
    code = failed("cache", status);
    goto done;
  }

  omni_sampler_params sampling = omni_sampler_default_params();
  sampling.greedy = 1;
  const int32_t n_vocab = (int32_t)omni_model_n_vocab(model);
  if ((status = omni_sampler_new(n_vocab, &sampling, &sampler)) != OMNI_OK) {
    code = failed("sampler", status);
    goto done;
  }

  if ((status = omni_tokenize(tokenizer, argv[2], strlen(argv[2]), NULL, 0, &count)) != OMNI_OK) {
    code = failed("text", status);
    goto done;
  }
  logits = malloc((size_t)n_vocab * sizeof(float));
  ids = malloc((count + 1) * sizeof(int32_t));
  if (logits == NULL || ids == NULL) {
    fprintf(stderr, "out of memory\n");
    goto done;
  }
  omni_tokenize(tokenizer, argv[2], strlen(argv[2]), ids, count, &count);

  const int32_t end = omni_tokenizer_find(tokenizer, "<|im_end|>");
  for (long i = 0; i < n_predict; ++i) {
    if ((status = omni_decode(model, cache, ids, count, NULL, logits)) != OMNI_OK) {
      code = failed("decode", status);
      goto done;
    }
    if ((status = omni_sample(sampler, logits, &ids[0])) != OMNI_OK) {
      code = failed("sample", status);
      goto done;
    }
    count = 1;
    if (ids[0] == end) break;
    char text[256];
    size_t bytes = 0;
    if (omni_detokenize(tokenizer, ids, 1, 1, text, sizeof(text), &bytes) == OMNI_OK &&
        bytes <= sizeof(text)) {
      fwrite(text, 1, bytes, stdout);
    }
  }
  putchar('\n');
  code = 0;

done:
  free(ids);
  free(logits);
  omni_sampler_free(sampler);
  omni_cache_free(cache);
  omni_model_free(model);
  omni_tokenizer_free(tokenizer);
  return code;
}
