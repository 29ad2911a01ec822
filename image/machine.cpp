#include "image/machine.h"

#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>

#include "image/magic.h"

namespace relive::image {

namespace {

constexpr std::uint32_t kModeMask = 0170000;
constexpr std::uint64_t kVdsoLimit = 64 << 10;

// The size of our own vDSO's mapping; 0: not known.
std::uint64_t vdso_size() {
  std::FILE* const maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return 0;
  std::uint64_t size = 0;
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::string_view(line).find("[vdso]") != std::string_view::npos &&
        std::sscanf(line, "%lx-%lx", &begin, &end) == 2)
      size = end - begin;
  }
  std::fclose(maps);
  return size;
}

void check_vdso(const Image& image, const ImagedTask& task, std::uint64_t our_size, Findings& findings) {
  const std::string file = file_name(FileKind::mm, static_cast<std::uint64_t>(task.task.pid.value));
  const auto* const ours = reinterpret_cast<const std::byte*>(::getauxval(AT_SYSINFO_EHDR));
  if (ours == nullptr || our_size == 0 || our_size > kVdsoLimit) return;
  for (const model::Mapping& mapping : task.task.memory.mappings) {
    if (mapping.name != "[vdso]") continue;
    bool same = mapping.range.size() == our_size;
    for (const PageRun& run : task.vdso) {
      if (!same) break;
      std::vector<std::byte> theirs(run.pages * kPageSize);
      const auto read = image.page_files.read(run, 0, theirs);
      same = read && std::memcmp(theirs.data(), ours + (run.address - mapping.range.begin), theirs.size()) == 0;
    }
    if (!same)
      findings.unsupported(file, 0,
                           fmt::format("the vDSO at {:x} is not this kernel's: the program remembers addresses in it",
                                       mapping.range.begin));
  }
}

void check_file(const NamedFile& file, Findings& findings) {
  const auto no = [&](std::string what) {
    findings.unsupported(file_name(FileKind::files), std::nullopt,
                         fmt::format("file {}: {} {}", file.id, file.path, what));
  };
  struct stat seen{};
  // A link may lead nowhere: an O_PATH descriptor is of the link itself.
  if (::stat(file.path.c_str(), &seen) != 0 && ::lstat(file.path.c_str(), &seen) != 0)
    return no(fmt::format("cannot be had here: {}", std::strerror(errno)));
  if (file.mode != 0 && (seen.st_mode & kModeMask) != (file.mode & kModeMask)) return no("is of another kind here");
  if (file.size && S_ISREG(seen.st_mode) && static_cast<std::uint64_t>(seen.st_size) != *file.size)
    no(fmt::format("has {} bytes here, and had {}", seen.st_size, *file.size));
}

}  // namespace

void check_machine(const Image& image, Findings& findings) {
  const std::uint64_t ours = vdso_size();
  for (const ImagedTask& task : image.tasks) check_vdso(image, task, ours, findings);
}

void check_named_files(const Image& image, Findings& findings) {
  for (const NamedFile& file : image.named_files) check_file(file, findings);
}

}  // namespace relive::image
