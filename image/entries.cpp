#include "image/entries.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/message_lite.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace relive::image {

namespace {

constexpr std::size_t kBuffer = 64 << 10;

std::uint32_t limit_of(FileKind kind) {
  return kind == FileKind::mm || kind == FileKind::extra ? kLargeEntryLimit : kEntryLimit;
}

// How many fields an encoded message has on its first level; stops counting where it is broken. An empty message of two
// bytes becomes an object of a hundred.
std::uint64_t count_fields(std::span<const std::byte> bytes) {
  std::size_t at = 0;
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
      const auto byte = std::to_integer<std::uint64_t>(bytes[at++]);
      value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  };
  std::uint64_t fields = 0;
  while (at < bytes.size()) {
    const auto tag = varint();
    if (!tag) break;
    std::uint64_t skip = 0;
    if ((*tag & 7) == 0) {
      if (!varint()) break;
    } else if ((*tag & 7) == 1) {
      skip = 8;
    } else if ((*tag & 7) == 5) {
      skip = 4;
    } else if ((*tag & 7) == 2) {
      const auto length = varint();
      if (!length) break;
      skip = *length;
    } else {
      break;
    }
    if (skip > bytes.size() - at) break;
    at += skip;
    ++fields;
  }
  return fields;
}

}  // namespace

EntryReader::EntryReader(const ImageSource& source, FileKind kind, std::uint64_t number, Findings& findings,
                         Budget& budget)
    : name_(file_name(kind, number)), kind_(kind), findings_(findings), budget_(budget) {
  auto opened = source.open(name_);
  if (!opened) {
    if (opened.error().kind != ErrorKind::not_found) findings_.damaged(name_, std::nullopt, opened.error().text());
    return;
  }
  file_ = std::move(*opened);
  size_ = file_->size();
  const std::uint32_t wanted = format_of(kind).magic;
  auto magic = word();
  if (magic == kCommonMagic) magic = word();  // version 1 had one
  if (!magic)
    stop("is too short to be an image file");
  else if (*magic != wanted)
    stop(fmt::format("begins with {:#010x}, not with {:#010x}", *magic, wanted));
}

void EntryReader::damaged(std::string what) { findings_.damaged(name_, index_, std::move(what)); }
void EntryReader::unsupported(std::string what) { findings_.unsupported(name_, index_, std::move(what)); }

void EntryReader::stop(std::string what) {
  findings_.damaged(name_, position_ <= 8 ? std::nullopt : std::optional(index_), std::move(what));
  position_ = size_;
}

bool EntryReader::get(std::span<std::byte> into) {
  if (file_ == nullptr || into.size() > size_ - position_) return false;
  while (!into.empty()) {
    if (position_ < buffered_at_ || position_ >= buffered_at_ + buffer_.size()) {
      buffer_.resize(std::min<std::uint64_t>(kBuffer, size_ - position_));
      buffered_at_ = position_;
      if (const auto read = file_->read(position_, buffer_); !read) {
        buffer_.clear();
        stop(read.error().text());
        return false;
      }
    }
    const std::uint64_t from = position_ - buffered_at_;
    const std::size_t part = std::min<std::size_t>(into.size(), buffer_.size() - from);
    std::memcpy(into.data(), buffer_.data() + from, part);
    into = into.subspan(part);
    position_ += part;
  }
  return true;
}

std::optional<std::uint32_t> EntryReader::word() {
  std::uint32_t value = 0;
  if (!get(std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
  return value;
}

bool EntryReader::next(google::protobuf::MessageLite& message) {
  if (file_ == nullptr || position_ >= size_) return false;
  index_ = entries_++;
  const auto length = word();
  if (!length) {
    stop(fmt::format("ends within the length of an entry, at {} of {} bytes", position_, size_));
    return false;
  }
  if (*length > size_ - position_) {
    stop(fmt::format("wants {} bytes, and the file has {} more", *length, size_ - position_));
    return false;
  }
  if (*length > limit_of(kind_)) {
    stop(fmt::format("is {} bytes long; the most is {}", *length, limit_of(kind_)));
    return false;
  }
  if (*length > budget_.metadata) {
    stop(fmt::format("the image has more than {} MiB of entries", kMetadataLimit >> 20));
    return false;
  }
  budget_.metadata -= *length;
  entry_.resize(*length);
  if (!get(entry_)) return false;
  if (count_fields(entry_) > kFieldLimit) {
    stop(fmt::format("has more than {} fields", kFieldLimit));
    return false;
  }
  message.Clear();
  // In two steps: protobuf says on stderr what it lacks.
  if (!message.ParsePartialFromArray(entry_.data(), static_cast<int>(entry_.size())) || !message.IsInitialized()) {
    stop("cannot be decoded, or lacks a field that must be there");
    return false;
  }
  return true;
}

std::optional<std::vector<std::byte>> EntryReader::data(std::uint64_t size) {
  if (size > rest()) {
    stop(fmt::format("has {} bytes behind it, and the file has {} more", size, rest()));
    return std::nullopt;
  }
  if (size > budget_.data) {
    stop(fmt::format("the image has more than {} MiB of unread data", kUnreadDataLimit >> 20));
    return std::nullopt;
  }
  budget_.data -= size;
  std::vector<std::byte> bytes(size);
  if (!get(bytes)) return std::nullopt;
  return bytes;
}

Result<void> write_all(int fd, std::span<const std::byte> bytes, std::string_view name) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_errno("write", name);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Result<EntryWriter> EntryWriter::create(int directory, FileKind kind, std::uint64_t number) {
  const std::string name = file_name(kind, number);
  UniqueFd fd(::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("create", name);
  EntryWriter writer(std::move(fd), name);
  if (const std::uint32_t magic = format_of(kind).magic; magic != 0) {
    // The inventory is read by all versions, and begins as the first one's did.
    if (kind != FileKind::inventory)
      writer.buffer_.append(reinterpret_cast<const char*>(&kCommonMagic), sizeof kCommonMagic);
    writer.buffer_.append(reinterpret_cast<const char*>(&magic), sizeof magic);
  }
  return writer;
}

Result<void> EntryWriter::flush() {
  RELIVE_TRY(write_all(fd_.get(), std::as_bytes(std::span(buffer_)), name_));
  written_ += buffer_.size();
  buffer_.clear();
  return {};
}

Result<void> EntryWriter::put(const google::protobuf::MessageLite& message) {
  const std::size_t size = message.ByteSizeLong();
  if (size > kLargeEntryLimit) return fail(ErrorKind::refused, fmt::format("{}: an entry of {} bytes", name_, size));
  const auto length = static_cast<std::uint32_t>(size);
  buffer_.append(reinterpret_cast<const char*>(&length), sizeof length);
  if (!message.IsInitialized() || !message.AppendPartialToString(&buffer_))
    return fail(ErrorKind::system, name_ + ": an entry that is not complete");
  if (buffer_.size() >= kBuffer) RELIVE_TRY(flush());
  return {};
}

Result<void> EntryWriter::put_bytes(std::span<const std::byte> bytes) {
  RELIVE_TRY(flush());
  RELIVE_TRY(write_all(fd_.get(), bytes, name_));
  written_ += bytes.size();
  return {};
}

Result<void> EntryWriter::finish() {
  RELIVE_TRY(flush());
  if (::fsync(fd_.get()) != 0) return fail_errno("fsync", name_);
  return {};
}

}  // namespace relive::image
