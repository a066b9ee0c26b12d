// bindings/module.cpp - the extension module omni._ext.
#include "bindings.h"

PYBIND11_MODULE(_ext, m) {
  m.doc() = "The engine behind omni; use the omni package instead of this module.";
  omni::python::register_bench(m);
  omni::python::register_errors(m);
  omni::python::register_gguf(m);
  omni::python::register_language_model(m);
  omni::python::register_speech(m);
  omni::python::register_vision(m);
  omni::python::register_text(m);
  omni::python::register_audio(m);
  omni::python::register_sampler(m);
  omni::python::register_session(m);
  omni::python::register_duplex_session(m);
  omni::python::register_voice(m);
  omni::python::register_token2wav(m);
}
