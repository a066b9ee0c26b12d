// bindings/text.cpp - the tokenizer.
#include "omni/chat_template.h"
#include "omni/error.h"
#include "omni/tokenizer.h"

#include <filesystem>

#include <pybind11/stl/filesystem.h>

#include "bindings.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"

namespace omni::python {
namespace {

using Ids = std::vector<int32_t>;

std::string_view checked_utf8(std::string_view text) {
  require(find_invalid_utf8(text) == text.npos, ErrorCode::invalid_argument, "the text is not UTF-8");
  return text;
}

void bind_vocabulary(py::module_& m) {
  py::class_<Vocabulary>(m, "Vocabulary",
                         "The tables of a tokenizer: tokens by id, their types (1 normal, 3 control, 4 "
                         "literal but not special, 5\n"
                         "unused), and merges (\"left right\"), all in the byte-level spelling.")
      .def(py::init([](std::vector<std::string> tokens, std::vector<int32_t> types,
                       std::vector<std::string> merges, std::string pre, std::optional<int32_t> bos,
                       std::optional<int32_t> eos, std::optional<int32_t> pad, std::optional<Ids> bad) {
             return Vocabulary{
                 std::move(tokens), std::move(types), std::move(merges), std::move(pre), bos, eos, pad,
                 std::move(bad)};
           }),
           py::arg("tokens"), py::arg("types"), py::arg("merges"), py::kw_only(), py::arg("pre") = "qwen2",
           py::arg("bos") = py::none(), py::arg("eos") = py::none(), py::arg("pad") = py::none(),
           py::arg("bad_token_ids") = py::none());
}

void bind_prompts(py::module_& m) {
  py::class_<ChatMessage>(m, "ChatMessage")
      .def(py::init([](std::string role, std::string content, std::optional<std::string> reasoning,
                       const std::vector<std::pair<std::string, std::string>>& tool_calls) {
             ChatMessage message{std::move(role), std::move(content), std::move(reasoning), {}};
             for (const auto& [name, arguments] : tool_calls) message.tool_calls.push_back({name, arguments});
             return message;
           }),
           py::arg("role"), py::arg("content"), py::kw_only(), py::arg("reasoning") = py::none(),
           py::arg("tool_calls") = py::list());
  m.def(
      "apply_chat_template",
      [](const std::vector<ChatMessage>& messages, std::vector<std::string> tools, bool add_generation_prompt,
         std::optional<bool> enable_thinking, bool use_tts_template) {
        return apply_chat_template(
            messages, {add_generation_prompt, enable_thinking, use_tts_template, std::move(tools)});
      },
      py::arg("messages"), py::kw_only(), py::arg("tools"), py::arg("add_generation_prompt"),
      py::arg("enable_thinking"), py::arg("use_tts_template"));
  m.def("image_placeholder", &image_placeholder, py::arg("id") = py::none(), py::arg("grid_columns") = 0,
        py::arg("grid_rows") = 0, py::arg("embeddings") = kImageRows,
        "What stands for a picture and the slices of its grid in a prompt.");
  m.def("audio_rows", &audio_rows, py::arg("samples"),
        "Embedding rows of a clip of so many samples at 16 kHz.");
  m.def("audio_placeholder", &audio_placeholder, py::arg("samples"), py::arg("split") = false,
        "What stands for a clip in a prompt; split makes spans of at most 10 rows.");
  m.def(
      "system_prompt",
      [](std::string_view mode, std::string_view language, bool has_audio, bool server) {
        auto p =
            system_prompt(mode, language, has_audio, server ? PromptVariant::server : PromptVariant::hub);
        return std::tuple(std::move(p.prefix), p.has_audio, std::move(p.suffix));
      },
      py::arg("mode"), py::arg("language"), py::arg("has_audio"), py::arg("server"));
  m.def("default_duplex_prompt", &default_duplex_prompt, "The system prompt of a full-duplex session.");
}

}  // namespace

void register_text(py::module_& m) {
  using Released = py::call_guard<py::gil_scoped_release>;
  bind_vocabulary(m);
  bind_prompts(m);
  py::class_<Tokenizer>(
      m, "Tokenizer",
      "Byte-level BPE of the Qwen family, from the tokenizer.* keys of a GGUF file or from a Vocabulary.\n"
      "Immutable; may be used from many threads.")
      .def(py::init([](const std::filesystem::path& path) { return Tokenizer(path.string()); }),
           py::arg("gguf_path"), Released())
      .def(py::init<const Vocabulary&>(), py::arg("vocabulary"), Released())
      .def("encode", &Tokenizer::encode, py::arg("text"), py::arg("literal_tokens") = true,
           "Text to ids; nothing is added at the ends. literal_tokens=False spells out special tokens that "
           "the\n"
           "text contains, for text that must not steer the model.",
           Released())
      .def(
          "decode", [](const Tokenizer& t, const Ids& ids, bool skip) { return t.decode(ids, skip); },
          py::arg("ids"), py::arg("skip_special") = false,
          "Ids to text, invalid UTF-8 as U+FFFD; skip_special drops control tokens.", Released())
      .def(
          "bytes_of", [](const Tokenizer& t, int32_t id) { return py::bytes(t.bytes(id)); }, py::arg("id"),
          "The bytes of one token; not always whole characters.")
      .def("id_of", &Tokenizer::id_of, py::arg("text"),
           "The id of the token with exactly this text, or None.")
      .def("required_id", &Tokenizer::required_id, py::arg("text"),
           "The same, but raises FormatError if there is none.")
      .def("is_special", &Tokenizer::is_special, py::arg("id"),
           "Whether decode(skip_special=True) drops this token.")
      .def(
          "token_type", [](const Tokenizer& t, int32_t id) { return static_cast<int>(t.type(id)); },
          py::arg("id"))
      .def("__len__", &Tokenizer::size)
      .def_property_readonly("vocab_size", &Tokenizer::size)
      .def_property_readonly("bos_id", &Tokenizer::bos_id)
      .def_property_readonly("eos_id", &Tokenizer::eos_id)
      .def_property_readonly("pad_id", &Tokenizer::pad_id)
      .def_property_readonly("bad_token_ids", &Tokenizer::bad_token_ids,
                             "Ids that speech must never contain, ascending.")
      .def_property_readonly(
          "has_multi_character_merges", &Tokenizer::has_multi_character_merges,
          "False if the merges come from the package's reduced merges.txt; Chinese is encoded wrongly then.");
  // The stages before the merges, for tests.
  m.def(
      "pieces",
      [](std::string_view text) {
        std::vector<std::string> out;
        checked_utf8(text);
        while (!text.empty()) {
          out.emplace_back(first_piece(text));
          text.remove_prefix(out.back().size());
        }
        return out;
      },
      py::arg("text"));
  m.def(
      "nfc", [](std::string_view text) { return nfc(checked_utf8(text)); }, py::arg("text"));
  py::class_<Detokenizer>(
      m, "Detokenizer",
      "Ids to text one by one: push(id) gives the characters that are whole, flush() what is left as U+FFFD.")
      .def(py::init<Tokenizer, bool>(), py::arg("tokenizer"), py::arg("skip_special") = false)
      .def("push", &Detokenizer::push, py::arg("id"))
      .def("flush", &Detokenizer::flush);
}

}  // namespace omni::python
