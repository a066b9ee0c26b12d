// bindings/bench.cpp - the machine's peaks for Python.
#include "omni/peaks.h"

#include "bindings.h"

namespace omni::python {

void register_bench(py::module_& m) {
  py::class_<MachinePeaks>(m, "MachinePeaks")
      .def_readonly("f32", &MachinePeaks::f32)
      .def_readonly("bf16", &MachinePeaks::bf16)
      .def_readonly("int8", &MachinePeaks::int8)
      .def_readonly("memory_read", &MachinePeaks::memory_read);
  m.def("measure_peaks", &measure_peaks, py::arg("n_threads") = 0, py::arg("seconds") = 0.3,
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace omni::python
