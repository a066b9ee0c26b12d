/* A full-duplex conversation with a WAV file: it is heard second by second, what the model says meanwhile
 * goes to another WAV file, and its text to standard output.
 *
 *   duplex MODEL.gguf AUDIO.gguf SPEECH.gguf MODEL_DIR VOICE.wav QUESTION.wav ANSWER.wav
 *
 * Both inputs are 16 kHz, 16 bit, mono. Silence follows the question until the model has listened to two
 * seconds of it in a row, at most ten.
 */
#include <omni/omni.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RATE = 16000, OUT_RATE = 24000, MAX_SECONDS = 3600, TAIL = 10 };

typedef struct wave {
  float* samples;
  size_t count;
} wave;

typedef struct program {
  omni_tokenizer* tokenizer;
  omni_model* model;
  omni_audio* audio;
  omni_speech_model* speech;
  omni_token2wav* token2wav;
  omni_voice* voice;
  omni_duplex* session;
  wave reference;
  wave question;
  FILE* answer;
  size_t answered; /* samples written */
  int quiet;       /* units in a row that listened */
} program;

static int failed(const char* what, omni_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, omni_status_name(status), omni_last_error());
  return 1;
}

/* ---- WAV files ---- */

static uint32_t number(const unsigned char* bytes, int n) {
  uint32_t value = 0;
  for (int i = n - 1; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

/* Finds the "fmt " and "data" parts; leaves the file at the samples and returns their number, or -1. */
static long find_samples(FILE* file) {
  unsigned char head[16];
  if (fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0) {
    return -1;
  }
  int is_known = 0;
  while (fread(head, 1, 8, file) == 8) {
    uint32_t size = number(head + 4, 4);
    if (memcmp(head, "data", 4) == 0) return is_known ? (long)(size / 2) : -1;
    if (memcmp(head, "fmt ", 4) == 0 && size >= 16) {
      if (fread(head, 1, 16, file) != 16) return -1;
      is_known = number(head, 2) == 1 && number(head + 2, 2) == 1 && number(head + 4, 4) == RATE &&
                 number(head + 14, 2) == 16;
      size -= 16;
    }
    if (size > 1 << 20 || fseek(file, (long)(size + size % 2), SEEK_CUR) != 0) return -1;
  }
  return -1;
}

static int read_wav(const char* path, wave* sound) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) {
    fprintf(stderr, "can't read %s\n", path);
    return 1;
  }
  const long count = find_samples(file);
  if (count <= 0 || count > (long)RATE * MAX_SECONDS) {
    fprintf(stderr, "%s is not a WAV file of 16 kHz, 16 bit, mono\n", path);
    fclose(file);
    return 1;
  }
  sound->samples = malloc((size_t)count * sizeof(float));
  unsigned char bytes[2];
  while (sound->samples != NULL && sound->count < (size_t)count && fread(bytes, 1, 2, file) == 2) {
    const int value = (int)number(bytes, 2);
    sound->samples[sound->count++] = (float)(value < 32768 ? value : value - 65536) / 32768.0f;
  }
  fclose(file);
  if (sound->count > 0) return 0;
  fprintf(stderr, "%s holds no sound\n", path);
  return 1;
}

static void put_number(FILE* file, uint32_t value, int n) {
  for (int i = 0; i < n; ++i) fputc((int)(value >> 8 * i & 255), file);
}

/* Written again with the final size when everything is there. */
static void write_head(FILE* file, size_t samples) {
  const uint32_t bytes = (uint32_t)samples * 2;
  rewind(file);
  fwrite("RIFF", 1, 4, file);
  put_number(file, 36 + bytes, 4);
  fwrite("WAVEfmt ", 1, 8, file);
  put_number(file, 16, 4);
  put_number(file, 1, 2);
  put_number(file, 1, 2);
  put_number(file, OUT_RATE, 4);
  put_number(file, OUT_RATE * 2, 4);
  put_number(file, 2, 2);
  put_number(file, 16, 2);
  fwrite("data", 1, 4, file);
  put_number(file, bytes, 4);
}

static void write_samples(FILE* file, const float* samples, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float value = samples[i] * 32768.0f;
    const int rounded = (int)(value < 0 ? value - 0.5f : value + 0.5f);
    put_number(file, (uint32_t)(rounded < -32768 ? -32768 : rounded > 32767 ? 32767 : rounded), 2);
  }
}

/* ---- the conversation ---- */

/* Takes events until a unit is done (`until` is OMNI_DUPLEX_UNIT) or until there are no more. */
static int take_events(program* p, omni_duplex_event_type until) {
  omni_duplex_event event;
  event.size = sizeof(event);
  do {
    const omni_status status = omni_duplex_poll(p->session, 60, &event);
    if (status != OMNI_OK) return failed("session", status);
    switch (event.type) {
      case OMNI_DUPLEX_NOTHING:
        fprintf(stderr, "no answer within a minute\n");
        return 1;
      case OMNI_DUPLEX_TEXT:
        fputs(event.text, stdout);
        fflush(stdout);
        break;
      case OMNI_DUPLEX_AUDIO:
        write_samples(p->answer, event.samples, event.n_samples);
        p->answered += event.n_samples;
        break;
      case OMNI_DUPLEX_TURN_END:
        putchar('\n');
        break;
      case OMNI_DUPLEX_UNIT:
        p->quiet = event.is_listen ? p->quiet + 1 : 0;
        break;
      default:
        break;
    }
  } while (event.type != until && event.type != OMNI_DUPLEX_END);
  return 0;
}

static int push_second(program* p, const float* samples) {
  const omni_status status = omni_duplex_push_audio(p->session, samples, RATE);
  return status == OMNI_OK ? take_events(p, OMNI_DUPLEX_UNIT) : failed("sound", status);
}

static int converse(program* p) {
  float second[RATE];
  for (size_t at = 0; at < p->question.count; at += RATE) {
    const size_t left = p->question.count - at;
    memset(second, 0, sizeof(second)); /* the last second is filled up */
    memcpy(second, p->question.samples + at, (left < RATE ? left : RATE) * sizeof(float));
    if (push_second(p, second) != 0) return 1;
  }
  memset(second, 0, sizeof(second));
  p->quiet = 0;
  for (int i = 0; i < TAIL && p->quiet < 2; ++i) {
    if (push_second(p, second) != 0) return 1;
  }
  omni_duplex_end_input(p->session);
  return take_events(p, OMNI_DUPLEX_END);
}

static int open_session(program* p, char** argv) {
  omni_status status;
  if ((status = omni_tokenizer_open(argv[1], &p->tokenizer)) != OMNI_OK) return failed(argv[1], status);
  if ((status = omni_model_open(argv[1], NULL, &p->model)) != OMNI_OK) return failed(argv[1], status);
  if ((status = omni_audio_open(argv[2], NULL, &p->audio)) != OMNI_OK) return failed(argv[2], status);
  if ((status = omni_speech_model_open(argv[3], NULL, &p->speech)) != OMNI_OK) return failed(argv[3], status);
  if ((status = omni_token2wav_open(argv[4], &p->token2wav)) != OMNI_OK) return failed(argv[4], status);
  if ((status = omni_voice_encode(argv[4], p->reference.samples, p->reference.count, RATE, &p->voice)) !=
      OMNI_OK) {
    return failed(argv[5], status);
  }
  omni_duplex_parts parts;
  memset(&parts, 0, sizeof(parts));
  parts.size = sizeof(parts);
  parts.tokenizer = p->tokenizer;
  parts.model = p->model;
  parts.audio = p->audio;
  parts.speech = p->speech;
  parts.token2wav = p->token2wav;
  parts.voice = p->voice;
  omni_duplex_params params = omni_duplex_default_params();
  params.reference = p->reference.samples; /* the model hears the voice that it speaks with */
  params.n_reference = p->reference.count;
  params.greedy = 1;
  params.real_time = 0; /* as fast as possible; a program with a microphone leaves this at 1 */
  status = omni_duplex_new(&parts, &params, &p->session);
  return status == OMNI_OK ? 0 : failed("session", status);
}

static int run(program* p, char** argv) {
  if (read_wav(argv[5], &p->reference) != 0 || read_wav(argv[6], &p->question) != 0) return 1;
  if (open_session(p, argv) != 0) return 1;
  if ((p->answer = fopen(argv[7], "wb")) == NULL) {
    fprintf(stderr, "can't write %s\n", argv[7]);
    return 1;
  }
  write_head(p->answer, 0);
  int code = converse(p);
  write_head(p->answer, p->answered);
  if (fclose(p->answer) != 0) {
    fprintf(stderr, "can't write %s\n", argv[7]);
    code = 1;
  }
  return code;
}

int main(int argc, char** argv) {
  if (argc != 8) {
    fprintf(stderr,
            "usage: %s MODEL.gguf AUDIO.gguf SPEECH.gguf MODEL_DIR VOICE.wav QUESTION.wav ANSWER.wav\n",
            argv[0]);
    return 2;
  }
  program p;
  memset(&p, 0, sizeof(p));
  const int code = run(&p, argv);
  omni_duplex_free(p.session);
  omni_voice_free(p.voice);
  omni_token2wav_free(p.token2wav);
  omni_speech_model_free(p.speech);
  omni_audio_free(p.audio);
  omni_model_free(p.model);
  omni_tokenizer_free(p.tokenizer);
  free(p.reference.samples);
  free(p.question.samples);
  return code;
}
