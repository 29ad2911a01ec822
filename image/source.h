// Where an image is read from: a directory, or bytes in memory (tests, fuzzing). Nothing is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace relive::image {

// A file that is open for reading. Its size is that at the opening.
class ImageFile {
 public:
  ImageFile() = default;
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;
  virtual ~ImageFile() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  // Fills `into` from `offset` on. REQUIRES: offset + into.size() <= size(). A file that has shrunk is an error.
  [[nodiscard]] virtual Result<void> read(std::uint64_t offset, std::span<std::byte> into) const = 0;
};

class ImageSource {
 public:
  ImageSource() = default;
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;
  virtual ~ImageSource() = default;
  // Names of its files, sorted.
  [[nodiscard]] virtual Result<std::vector<std::string>> names() const = 0;
  // ErrorKind::not_found where there is none of that name; anything but a regular file is refused, so is a link.
  [[nodiscard]] virtual Result<std::unique_ptr<ImageFile>> open(const std::string& name) const = 0;
  // The image that this one was taken on top of; null where there is none.
  [[nodiscard]] virtual Result<std::unique_ptr<ImageSource>> parent() const = 0;
  // Two sources with one identity are one: a chain that comes back to itself is found by it.
  [[nodiscard]] virtual std::string identity() const = 0;
};

// A directory. `parent` in it is a link to another one; links lead where their writer wanted, the files are only read.
Result<std::unique_ptr<ImageSource>> open_directory(const std::string& path);

// Files by name; those of the parent are named "parent/NAME". REQUIRES: `files` outlives what is opened.
std::unique_ptr<ImageSource> in_memory(const std::map<std::string, std::vector<std::byte>>& files);

}  // namespace relive::image
