#include "capture/memory_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/page_range.h"

namespace relive::capture {

namespace {

constexpr std::uint32_t kSealFutureWrite = 0x10;  // linux/fcntl.h, Linux 5.1
constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

// Where `fd` has data from `from` on: no further than `end`, which is also the answer where there is none.
std::int64_t next_data(int fd, std::int64_t from, std::int64_t end) {
  if (fd < 0) return end;
  const off_t data = ::lseek(fd, from, SEEK_DATA);
  return data < 0 ? end : std::min<std::int64_t>(data, end);
}

Result<void> read_piece(int fd, std::int64_t offset, std::span<std::byte> piece) {
  std::size_t done = 0;
  while (fd >= 0 && done < piece.size()) {
    const ssize_t size =
        ::pread(fd, piece.data() + done, piece.size() - done, static_cast<off_t>(offset + static_cast<off_t>(done)));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return fail_errno("pread", "a memfd");
    if (size == 0) break;
    done += static_cast<std::size_t>(size);
  }
  std::memset(piece.data() + done, 0, piece.size() - done);
  return {};
}

// Two multiplications of 64 by 64 bits a word; equal contents are what matters, nobody is to be outwitted.
std::uint64_t mix(std::uint64_t digest, std::uint64_t word) {
  const auto product = static_cast<unsigned __int128>(digest ^ word) * 0x9e3779b97f4a7c15U;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64) ^ (word << 1);
}
bool all_zero(std::span<const std::byte> page) {
  return std::ranges::all_of(page, [](std::byte one) { return one == std::byte{0}; });
}

}  // namespace

Result<UniqueFd> open_again(int ours, bool writable) {
  const std::string link = fmt::format("/proc/self/fd/{}", ours);
  UniqueFd again(::open(link.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  if (!again) return fail_errno("open", "a memfd, again");
  return again;
}

Result<void> for_each_piece(
    int first, int second, std::int64_t end,
    const std::function<void(std::int64_t, std::span<const std::byte>, std::span<const std::byte>)>& look) {
  std::vector<std::byte> one(kPieceBytes);
  std::vector<std::byte> other(kPieceBytes);
  for (std::int64_t at = 0; at < end;) {
    at = std::min(next_data(first, at, end), next_data(second, at, end));
    at -= at % static_cast<std::int64_t>(kPageSize);
    if (at >= end) break;
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(kPieceBytes, end - at));
    RELIVE_TRY(read_piece(first, at, std::span(one).first(size)));
    RELIVE_TRY(read_piece(second, at, std::span(other).first(size)));
    look(at, std::span(one).first(size), std::span(other).first(size));
    at += static_cast<std::int64_t>(kPieceBytes);
  }
  return {};
}

Result<model::MemoryFile> read_memory_file(int ours) {
  model::MemoryFile file;
  struct stat status{};
  if (::fstat(ours, &status) != 0) return fail_errno("fstat", "a memfd");
  file.size = status.st_size;
  file.resident = static_cast<std::uint64_t>(status.st_blocks) * 512;
  const UniqueFd again = RELIVE_TRY(open_again(ours, false));
  const int seals = ::fcntl(again.get(), F_GET_SEALS);
  if (seals < 0) return fail_errno("fcntl F_GET_SEALS", "a memfd");
  file.seals = static_cast<std::uint32_t>(seals);
  if (file.resident > model::kMemoryFileLimit) return file;
  file.digest = 1;
  RELIVE_TRY(for_each_piece(again.get(), -1, file.size, [&](std::int64_t at, auto piece, auto) {
    // By page, with its place: a page of zeros counts as the hole that it may have been.
    for (std::size_t from = 0; from < piece.size(); from += kPageSize) {
      const auto page = piece.subspan(from, std::min<std::size_t>(kPageSize, piece.size() - from));
      if (all_zero(page)) continue;
      file.digest = mix(file.digest, static_cast<std::uint64_t>(at) + from);
      for (std::size_t word = 0; word < page.size(); word += sizeof(std::uint64_t)) {
        std::uint64_t value = 0;
        std::memcpy(&value, page.data() + word, std::min(sizeof value, page.size() - word));
        file.digest = mix(file.digest, value);
      }
    }
  }));
  return file;
}

bool is_huge_page_file(int ours) {
  struct statfs where{};
  return ::fstatfs(ours, &where) == 0 && where.f_type == HUGETLBFS_MAGIC;
}

Result<UniqueFd> copy_memory_file(int ours, const model::MemoryFile& file) {
  if ((file.seals & F_SEAL_WRITE) != 0) return UniqueFd();
  UniqueFd copy(::memfd_create("relive-contents", MFD_CLOEXEC));
  if (!copy) return fail_errno("memfd_create", "relive-contents");
  if (::ftruncate(copy.get(), file.size) != 0) return fail_errno("ftruncate", "relive-contents");
  const UniqueFd again = RELIVE_TRY(open_again(ours, false));
  Result<void> outcome;
  RELIVE_TRY(for_each_piece(again.get(), -1, file.size, [&](std::int64_t at, auto piece, auto) {
    if (outcome && ::pwrite(copy.get(), piece.data(), piece.size(), at) != static_cast<ssize_t>(piece.size()))
      outcome = fail_errno("pwrite", "relive-contents");
  }));
  RELIVE_TRY(std::move(outcome));
  return copy;
}

std::string why_not(const model::MemoryFile& file) {
  if (file.resident > model::kMemoryFileLimit)
    return fmt::format("with {} MiB of contents; this release rolls back those up to {} MiB", file.resident >> 20,
                       model::kMemoryFileLimit >> 20);
  if ((file.seals & kSealFutureWrite) != 0 && (file.seals & F_SEAL_WRITE) == 0)
    return "that only its old mappings may write (F_SEAL_FUTURE_WRITE); this release does not roll back those";
  return {};
}

}  // namespace relive::capture
