// Marks what the shared library shows to its users.
#pragma once

#if defined(_WIN32)
#if defined(OMNI_BUILDING)
#define OMNI_API __declspec(dllexport)
#else
#define OMNI_API __declspec(dllimport)
#endif
#else
#define OMNI_API __attribute__((visibility("default")))
#endif
