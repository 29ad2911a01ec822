// A task of an image as an ELF core file (core(5)), for a debugger: threads, registers, memory, mapped files.
#pragma once

#include <string>

#include "base/result.h"
#include "image/image.h"

namespace relive::image {

// Writes `path`, which must not be there. Parts of files that the task did not change are left to the debugger, which
// finds them in the files. A failure leaves no file.
Result<void> write_core(const Image& image, const ImagedTask& task, const std::string& path);

}  // namespace relive::image
