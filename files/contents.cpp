#include "files/contents.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/page_range.h"

namespace relive::files {

namespace {

constexpr std::uint64_t kBlock = 4096;        // what is compared and written at once
constexpr std::uint64_t kChunk = 256 * 1024;  // read at once: two of them stay in the cache of a processor core

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;  // of data; behind it a hole
};

// The next data at or behind `from`; begin = end = size where there is none.
Result<Extent> next_data(int fd, std::uint64_t from, std::uint64_t size, std::string_view object) {
  if (from >= size) return Extent{size, size};
  const off_t begin = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return Extent{size, size};
  if (begin < 0) return fail_errno("lseek SEEK_DATA", object);
  const off_t end = ::lseek(fd, begin, SEEK_HOLE);
  if (end < 0) return fail_errno("lseek SEEK_HOLE", object);
  return Extent{std::min(static_cast<std::uint64_t>(begin), size), std::min(static_cast<std::uint64_t>(end), size)};
}

Result<std::uint64_t> size_of(int fd, std::string_view object) {
  struct stat seen{};
  if (::fstat(fd, &seen) != 0) return fail_errno("fstat", object);
  return static_cast<std::uint64_t>(seen.st_size);
}

Result<void> read_all(int fd, char* into, std::uint64_t bytes, std::uint64_t from, std::string_view object) {
  for (std::uint64_t got = 0; got < bytes;) {
    const ssize_t n = ::pread(fd, into + got, bytes - got, static_cast<off_t>(from + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read", object);
    if (n == 0)
      return fail(ErrorKind::busy, std::string(object) + " became shorter while it was read",
                  "somebody outside the tree changes it");
    got += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> write_all(int fd, const char* from, std::uint64_t bytes, std::uint64_t to, std::string_view object) {
  for (std::uint64_t done = 0; done < bytes;) {
    const ssize_t n = ::pwrite(fd, from + done, bytes - done, static_cast<off_t>(to + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write", object);
    done += static_cast<std::uint64_t>(n);
  }
  return {};
}

// Two buffers for the life of the thread.
char* buffer(int which) {
  thread_local const auto first = std::make_unique_for_overwrite<char[]>(kChunk);   // NOLINT(*-avoid-c-arrays)
  thread_local const auto second = std::make_unique_for_overwrite<char[]>(kChunk);  // NOLINT(*-avoid-c-arrays)
  return which == 0 ? first.get() : second.get();
}

Result<void> copy_extent(int from, int to, Extent extent, std::string_view object) {
  auto in = static_cast<off_t>(extent.begin);
  off_t out = in;
  bool by_kernel = true;
  while (static_cast<std::uint64_t>(in) < extent.end) {
    const std::uint64_t rest = extent.end - static_cast<std::uint64_t>(in);
    if (by_kernel) {
      const ssize_t n = ::copy_file_range(from, &in, to, &out, rest, 0);
      if (n > 0) continue;
      // Across file systems, or where the kernel will not: by hand.
      if (n < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_errno("copy_file_range", object);
      by_kernel = false;
    }
    const std::uint64_t bytes = std::min(rest, kChunk);
    RELIVE_TRY(read_all(from, buffer(0), bytes, static_cast<std::uint64_t>(in), object));
    RELIVE_TRY(write_all(to, buffer(0), bytes, static_cast<std::uint64_t>(in), object));
    in += static_cast<off_t>(bytes);
    out = in;
  }
  return {};
}

Result<void> make_hole(int fd, Extent extent, std::uint64_t size, std::string_view object) {
  if (extent.begin >= extent.end) return {};
  const auto data = RELIVE_TRY(next_data(fd, extent.begin, extent.end, object));
  if (data.begin >= extent.end) return {};
  // A block that is punched in part is filled with zeros: the last one of the file goes whole.
  const std::uint64_t end = extent.end == size ? page_ceil(extent.end) : extent.end;
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent.begin),
                  static_cast<off_t>(end - extent.begin)) == 0)
    return {};
  if (errno != EOPNOTSUPP) return fail_errno("fallocate", object);
  std::memset(buffer(0), 0, kChunk);
  for (std::uint64_t at = extent.begin; at < extent.end; at += kChunk)
    RELIVE_TRY(write_all(fd, buffer(0), std::min(kChunk, extent.end - at), at, object));
  return {};
}

// Walks over both, and writes what differs.
class PuttingBack {
 public:
  PuttingBack(int living, int copy, std::string_view object) : living_(living), copy_(copy), object_(object) {}

  // How many bytes were written.
  Result<std::uint64_t> go() {
    const std::uint64_t size = RELIVE_TRY(size_of(copy_, object_));
    const std::uint64_t now = RELIVE_TRY(size_of(living_, object_));
    // Cut first: what is behind the old end must be zeros when it grows again, and truncation sees to that.
    if (now != size && ::ftruncate(living_, static_cast<off_t>(size)) != 0) return fail_errno("ftruncate", object_);
    for (std::uint64_t at = 0; at < size;) {
      const Extent data = RELIVE_TRY(next_data(copy_, at, size, object_));
      RELIVE_TRY(make_hole(living_, {at, data.begin}, size, object_));
      RELIVE_TRY(range(data));
      at = data.end;
    }
    return written_;
  }

 private:
  // Data in the copy. What is a hole in the living file differs, though it reads the same.
  Result<void> range(Extent extent) {
    for (std::uint64_t at = extent.begin; at < extent.end;) {
      const Extent data = RELIVE_TRY(next_data(living_, at, extent.end, object_));
      if (at < data.begin) RELIVE_TRY(fill({at, data.begin}));
      for (std::uint64_t from = data.begin; from < data.end; from += kChunk)
        RELIVE_TRY(compare({from, std::min(from + kChunk, data.end)}));
      at = data.end;
    }
    return {};
  }

  Result<void> fill(Extent extent) {
    for (std::uint64_t at = extent.begin; at < extent.end; at += kChunk) {
      const std::uint64_t bytes = std::min(kChunk, extent.end - at);
      RELIVE_TRY(read_all(copy_, buffer(0), bytes, at, object_));
      RELIVE_TRY(write_all(living_, buffer(0), bytes, at, object_));
      written_ += bytes;
    }
    return {};
  }

  Result<void> compare(Extent extent) {
    const std::uint64_t bytes = extent.end - extent.begin;
    const char* const wanted = buffer(0);
    const char* const there = buffer(1);
    RELIVE_TRY(read_all(copy_, buffer(0), bytes, extent.begin, object_));
    RELIVE_TRY(read_all(living_, buffer(1), bytes, extent.begin, object_));
    if (std::memcmp(wanted, there, bytes) == 0) return {};
    for (std::uint64_t at = 0; at < bytes;) {
      const std::uint64_t begin = at;
      while (at < bytes && std::memcmp(wanted + at, there + at, std::min(kBlock, bytes - at)) != 0)
        at = std::min(at + kBlock, bytes);
      if (at > begin) {
        RELIVE_TRY(write_all(living_, wanted + begin, at - begin, extent.begin + begin, object_));
        written_ += at - begin;
      }
      at += kBlock;
    }
    return {};
  }

  int living_;
  int copy_;
  std::string_view object_;
  std::uint64_t written_ = 0;
};

}  // namespace

Result<Copied> copy_contents(int from, int to, std::uint64_t size, std::string_view object) {
  if (size == 0) return Copied::copied;
  if (::ioctl(to, FICLONE, from) == 0) return Copied::shared;
  for (std::uint64_t at = 0; at < size;) {
    const Extent data = RELIVE_TRY(next_data(from, at, size, object));
    RELIVE_TRY(copy_extent(from, to, data, object));
    at = data.end;
  }
  if (::ftruncate(to, static_cast<off_t>(size)) != 0) return fail_errno("ftruncate", object);
  return Copied::copied;
}

Result<std::uint64_t> put_back_contents(int living, int copy, std::string_view object) {
  return PuttingBack(living, copy, object).go();
}

}  // namespace relive::files
