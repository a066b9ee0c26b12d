// Prompts as text: the chat template, placeholders for pictures and sound, system prompts.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
};

struct ChatMessage {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::optional<std::string> reasoning;  // of an assistant; else what <think></think> in the content encloses
  std::vector<ToolCall> tool_calls;      // of an assistant
};

struct ChatTemplateOptions {
  bool add_generation_prompt = false;
  // False begins the answer with an empty thinking block; true and absent leave it to the model.
  std::optional<bool> enable_thinking;
  bool use_tts_template = false;   // the answer will be spoken
  std::vector<std::string> tools;  // one JSON object each
};

// The prompt, as the checkpoint's chat template renders it. Throws Error(invalid_argument) for an empty list
// and for unknown roles.
OMNI_API std::string apply_chat_template(std::span<const ChatMessage> messages,
                                         const ChatTemplateOptions& options = {});

// Embedding rows for one picture or slice of it, in the published model; VisionEncoderInfo::n_queries of
// another.
inline constexpr int kImageRows = 64;

// What stands for a picture in a prompt, with `<unk>` for every embedding row. `id`: its number in the
// prompt, if it is to be written. The grid of slices is 0 x 0 for a picture that isn't sliced.
OMNI_API std::string image_placeholder(std::optional<int> id, int grid_columns = 0, int grid_rows = 0,
                                       int embeddings = kImageRows);
// Embedding rows of a clip of so many samples at 16 kHz: 10 a second.
OMNI_API int64_t audio_rows(int64_t samples);
// What stands for a clip. With `split` in spans of at most 10 rows.
OMNI_API std::string audio_placeholder(int64_t samples, bool split = false);

// A system prompt around a reference voice: prefix, the voice if there is one, suffix.
struct SystemPrompt {
  std::string prefix;
  bool has_audio = false;
  std::optional<std::string> suffix;
};
enum class PromptVariant { hub, server };  // the released package's words, or the public server's

// `mode`: omni, audio_assistant, audio_roleplay, voice_cloning; any other is the default assistant.
// `language`: zh, anything else is English. Throws Error(invalid_argument) for voice cloning without a
// reference voice.
OMNI_API SystemPrompt system_prompt(std::string_view mode, std::string_view language, bool has_audio,
                                    PromptVariant variant = PromptVariant::hub);
// The system prompt of a full-duplex session unless the caller gives one.
OMNI_API std::string_view default_duplex_prompt();

}  // namespace omni
