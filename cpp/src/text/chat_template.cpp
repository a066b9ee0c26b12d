// text/chat_template.cpp - the chat template, written out.
#include "omni/chat_template.h"

#include "omni/error.h"

#include <algorithm>
#include <utility>

namespace omni {
namespace {

constexpr std::string_view kThinkBegin = "<think>", kThinkEnd = "</think>";
constexpr std::string_view kToolsBefore =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsAfter =
    "\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

std::string_view trim_newlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

std::string turn(std::string_view role, std::string_view content) {
  return str("<|im_start|>", role, "\n", content, "<|im_end|>\n");
}

// The index of the last thing the user said; results of tools don't count. Reasoning is shown behind it only.
size_t last_query(std::span<const ChatMessage> messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    const ChatMessage& m = messages[i];
    const bool result = m.content.starts_with("<tool_response>") && m.content.ends_with("</tool_response>");
    if (m.role == "user" && !result) return i;
  }
  return messages.size() - 1;
}

struct Answer {
  std::string_view reasoning, content;
};

Answer split_reasoning(const ChatMessage& message) {
  const std::string_view text = message.content;
  if (message.reasoning) return {*message.reasoning, text};
  const size_t end = text.find(kThinkEnd);
  if (end == std::string_view::npos) return {{}, text};
  std::string_view reasoning = trim_newlines(text.substr(0, end), false, true);
  if (const size_t begin = reasoning.rfind(kThinkBegin); begin != std::string_view::npos) {
    reasoning.remove_prefix(begin + kThinkBegin.size());
  }
  const std::string_view content = text.substr(text.rfind(kThinkEnd) + kThinkEnd.size());
  return {trim_newlines(reasoning, true, false), trim_newlines(content, true, false)};
}

std::string assistant_turn(const ChatMessage& message, bool behind_query, bool last) {
  const Answer answer = split_reasoning(message);
  std::string out = "<|im_start|>assistant\n";
  if (behind_query && (last || !answer.reasoning.empty())) {
    out += str("<think>\n", trim_newlines(answer.reasoning, true, true), "\n</think>\n\n",
               trim_newlines(answer.content, true, false));
  } else {
    out += answer.content;
  }
  bool separate = !answer.content.empty();
  for (const ToolCall& call : message.tool_calls) {
    if (separate) out += '\n';
    out += str("<tool_call>\n{\"name\": \"", call.name, "\", \"arguments\": ", call.arguments,
               "}\n</tool_call>");
    separate = true;
  }
  return out + "<|im_end|>\n";
}

std::string first_system(const ChatMessage& first, const std::vector<std::string>& tools) {
  const bool given = first.role == "system";
  if (tools.empty()) return given ? turn("system", first.content) : std::string();
  std::string content = given ? first.content + "\n\n" : std::string();
  content += kToolsBefore;
  for (const std::string& tool : tools) content += "\n" + tool;
  content += kToolsAfter;
  return turn("system", content);
}

std::string rows(int64_t count) {
  constexpr std::string_view kRow = "<unk>";
  std::string out;
  out.reserve(static_cast<size_t>(count) * kRow.size());
  for (int64_t i = 0; i < count; ++i) out += kRow;
  return out;
}

std::string audio_span(int64_t count) {
  return "<|audio_start|>" + rows(count) + "<|audio_end|>";
}

}  // namespace

std::string apply_chat_template(std::span<const ChatMessage> messages, const ChatTemplateOptions& options) {
  require(!messages.empty(), ErrorCode::invalid_argument, "the list of messages is empty");
  std::string out = first_system(messages.front(), options.tools);
  const size_t query = last_query(messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool last = i + 1 == messages.size();
    if (message.role == "user" || message.role == "system") {
      if (i > 0 || message.role == "user") out += turn(message.role, message.content);
    } else if (message.role == "assistant") {
      out += assistant_turn(message, i > query, last);
    } else if (message.role == "tool") {
      // Results in a row make one turn of the user.
      if (i == 0 || messages[i - 1].role != "tool") out += "<|im_start|>user";
      out += str("\n<tool_response>\n", message.content, "\n</tool_response>");
      if (last || messages[i + 1].role != "tool") out += "<|im_end|>\n";
    } else {
      fail(ErrorCode::invalid_argument, "message ", i, " has the role \"", message.role,
           "\"; system, user, assistant and tool are possible");
    }
  }
  if (options.add_generation_prompt) {
    out += "<|im_start|>assistant\n";
    if (options.enable_thinking == false) out += "<think>\n\n</think>\n\n";
    if (options.use_tts_template) out += "<|tts_bos|>";
  }
  return out;
}

std::string image_placeholder(std::optional<int> id, int grid_columns, int grid_rows, int embeddings) {
  require(grid_columns >= 0 && grid_rows >= 0 && grid_columns <= 64 && grid_rows <= 64,
          ErrorCode::invalid_argument, "a grid of ", grid_columns, " x ", grid_rows, " slices");
  require(embeddings >= 1 && embeddings <= 1 << 16, ErrorCode::invalid_argument, embeddings,
          " embeddings for a picture");
  const std::string places = rows(embeddings);
  std::string out = id ? str("<image_id>", *id, "</image_id>") : std::string();
  out += "<image>" + places + "</image>";
  for (int row = 0; row < grid_rows; ++row) {
    if (row > 0 && grid_columns > 0) out += '\n';
    for (int column = 0; column < grid_columns; ++column) out += "<slice>" + places + "</slice>";
  }
  return out;
}

int64_t audio_rows(int64_t samples) {
  constexpr int64_t kHop = 160;  // samples for each mel frame; the encoder halves them, the pool takes 5
  constexpr int64_t kPool = 5;
  require(samples >= 0, ErrorCode::invalid_argument, "a clip of ", samples, " samples");
  const int64_t frames = (samples / kHop + (samples % kHop != 0 ? 1 : 0) + 1) / 2;
  return frames / kPool;
}

std::string audio_placeholder(int64_t samples, bool split) {
  constexpr int64_t kSpanRows = 10;
  constexpr int64_t kMaxSamples = int64_t{16000} * 3600 * 24;
  require(samples <= kMaxSamples, ErrorCode::invalid_argument, "a clip of ", samples,
          " samples is longer than a day");
  int64_t count = audio_rows(samples);
  if (!split) return audio_span(count);
  std::string out;
  for (; count > 0; count -= kSpanRows) out += audio_span(std::min(count, kSpanRows));
  return out;
}

SystemPrompt system_prompt(std::string_view mode, std::string_view language, bool has_audio,
                           PromptVariant variant) {
  constexpr std::string_view kCloneEn = "Clone the voice in the provided audio prompt.";
  constexpr std::string_view kImitateZh = "模仿音频样本的音色并生成新的内容。";
  constexpr std::string_view kTraitsZh = "模仿输入音频中的声音特征。";
  const bool zh = language == "zh";
  const auto text = [](std::string_view t) { return std::optional<std::string>(t); };
  const auto prompt = [&](std::string_view prefix, std::optional<std::string> suffix) {
    if (has_audio) return SystemPrompt{std::string(prefix), true, std::move(suffix)};
    // The words that stand for a built-in voice; not a special token.
    return SystemPrompt{"Use the <reserved_53> voice.", false, std::move(suffix)};
  };

  if (mode == "omni") {
    if (!has_audio) return {};
    return prompt(zh ? kImitateZh : kCloneEn,
                  text(zh ? "请用这种声音风格来为用户提供帮助。 请认真、高质量地回复用户的问题。 "
                            "请用高自然度的方式和用户聊天。"
                          : "As an assistant, you will speak using this voice style."));
  }
  if (mode == "audio_assistant") {
    if (zh) {
      return prompt(kImitateZh,
                    text("你的任务是用这种声音模式来当一个助手。请认真、高质量地回复用户的问题。"
                         "请用高自然度的方式和用户聊天。你是由面壁智能开发的人工智能助手：面壁小钢炮。"));
    }
    if (variant == PromptVariant::server) {
      return prompt("Use the voice in the audio prompt to synthesize new content.",
                    text("You are a helpful assistant with the above voice style."));
    }
    return prompt(kCloneEn,
                  text("Please assist users while maintaining this voice style. Please answer the user's "
                       "questions seriously and in a high quality. Please chat with the user in a highly "
                       "human-like and oral style. You are a helpful assistant developed by ModelBest: "
                       "MiniCPM-Omni."));
  }
  if (mode == "audio_roleplay") {
    return prompt(zh ? kTraitsZh : kCloneEn, text(zh ? "假装你是上述音频中的人物，与我进行对话。"
                                                     : "Try to role-play the character based on the audio "
                                                       "prompt above."));
  }
  if (mode == "voice_cloning") {
    require(has_audio, ErrorCode::invalid_argument,
            "the mode voice_cloning needs a reference voice; give ref_audio");
    return prompt(zh ? kTraitsZh : kCloneEn, std::nullopt);
  }
  return {"You are a helpful assistant. You can accept audio and text input and output voice and text.",
          false, std::nullopt};
}

std::string_view default_duplex_prompt() {
  return "Streaming Omni Conversation.";
}

}  // namespace omni
