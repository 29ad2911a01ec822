// Entries of image files, one after the other.
//
// Reading is bounded: an entry is taken in only when its length is within kEntryLimit (kLargeEntryLimit for address
// spaces), within the file, and has no more fields than memory is to be had for; what a whole image may take in is
// bounded by a Budget. Writing collects entries in a buffer of 64 KiB.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "image/finding.h"
#include "image/magic.h"
#include "image/source.h"

namespace relive::image {

inline constexpr std::uint32_t kEntryLimit = 1U << 20;
inline constexpr std::uint32_t kLargeEntryLimit = 32U << 20;     // mm-PID.img, relive-task-PID.img
inline constexpr std::uint64_t kFieldLimit = 1U << 20;           // fields of one entry, on its first level
inline constexpr std::uint64_t kMetadataLimit = 96ULL << 20;     // bytes of entries of one image
inline constexpr std::uint64_t kUnreadDataLimit = 256ULL << 20;  // bytes of pipes and sockets of one image
inline constexpr std::uint64_t kModelLimit = 1ULL << 30;         // bytes of the model made of them

// What an image may still take in. A table of a few bytes can be named by every task, an object be mapped everywhere:
// what entries are made into has a limit of its own.
struct Budget {
  std::uint64_t metadata = kMetadataLimit;
  std::uint64_t data = kUnreadDataLimit;
  std::uint64_t model = kModelLimit;
  // False: there is not so much left.
  [[nodiscard]] bool take_model(std::uint64_t bytes) {
    if (bytes > model) return false;
    model -= bytes;
    return true;
  }
};

// Reads one file. What is wrong with it is in the findings; reading the file ends there.
class EntryReader {
 public:
  // Checks the magics. `findings`, `budget` must outlive it. Not whole: next() is false at once.
  EntryReader(const ImageSource& source, FileKind kind, std::uint64_t number, Findings& findings, Budget& budget);
  // Was there such a file at all? One that is not there reads as empty, and is no finding.
  [[nodiscard]] bool present() const { return file_ != nullptr; }
  // The next entry, parsed into `message`. False: the end, or a finding.
  [[nodiscard]] bool next(google::protobuf::MessageLite& message);
  // Bytes behind the entry. Nothing: a finding.
  [[nodiscard]] std::optional<std::vector<std::byte>> data(std::uint64_t size);
  // The position in the file, and skipping: for data that is not taken in.
  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t rest() const { return size_ - position_; }
  void skip(std::uint64_t size) { position_ += size; }
  [[nodiscard]] std::unique_ptr<ImageFile> take_file() { return std::move(file_); }
  // Of the entry that next() gave last.
  [[nodiscard]] std::uint64_t index() const { return index_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  void damaged(std::string what);
  void unsupported(std::string what);

 private:
  [[nodiscard]] std::optional<std::uint32_t> word();
  [[nodiscard]] bool get(std::span<std::byte> into);
  void stop(std::string what);

  std::string name_;
  FileKind kind_;
  Findings& findings_;
  Budget& budget_;
  std::unique_ptr<ImageFile> file_;
  std::uint64_t size_ = 0;
  std::uint64_t position_ = 0;
  std::uint64_t entries_ = 0;
  std::uint64_t index_ = 0;
  std::vector<std::byte> buffer_;  // bytes from buffered_at_ on
  std::uint64_t buffered_at_ = 0;
  std::vector<std::byte> entry_;
};

// Writes one file of a directory.
class EntryWriter {
 public:
  static Result<EntryWriter> create(int directory, FileKind kind, std::uint64_t number = 0);
  Result<void> put(const google::protobuf::MessageLite& message);
  Result<void> put_bytes(std::span<const std::byte> bytes);
  // Writes out the rest. Not called: the file is not whole.
  Result<void> finish();
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::uint64_t written() const { return written_; }

 private:
  EntryWriter(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Result<void> flush();
  UniqueFd fd_;
  std::string name_;
  std::string buffer_;
  std::uint64_t written_ = 0;
};

// Writes all of `bytes` to the descriptor, at its position.
Result<void> write_all(int fd, std::span<const std::byte> bytes, std::string_view name);

}  // namespace relive::image
