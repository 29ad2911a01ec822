#include "files/ground.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace relive::testing {

namespace {

// Once a process.
bool own_namespace() {
  static const bool good =
      ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return good;
}

bool run(const std::string& command) { return std::system(("(" + command + ") >/dev/null 2>&1").c_str()) == 0; }

bool mount_image(const std::string& kind, const std::string& scratch, std::string& lacks) {
  const std::string options = kind == "ext4" ? "-F" : "-f";
  if (!run("command -v mkfs." + kind)) {
    lacks = fmt::format("needs {}: mkfs.{}", kind, kind);
    return false;
  }
  const std::string image = scratch + "/image";
  if (run(fmt::format("truncate -s 512M {0} && mkfs.{1} {2} {0} && mount -o loop -t {1} {0} {3}/ground", image, kind,
                      options, scratch)))
    return true;
  lacks = fmt::format("needs {}: a loop mount of it", kind);
  return false;
}

}  // namespace

std::unique_ptr<Ground> Ground::make(const std::string& kind, std::string& lacks) {
  std::string scratch = (std::filesystem::temp_directory_path() / "relive-ground-XXXXXX").string();
  if (::mkdtemp(scratch.data()) == nullptr) std::abort();
  std::unique_ptr<Ground> ground(new Ground(scratch));
  ::mkdir(ground->root().c_str(), 0755);
  bool good = true;
  if (kind != "here" && !own_namespace()) {
    lacks = "needs mounts: unshare(CLONE_NEWNS)";
    return nullptr;
  }
  if (kind == "tmpfs") {
    good = ::mount("none", ground->root().c_str(), "tmpfs", 0, nullptr) == 0;
    if (!good) lacks = "needs mounts: a tmpfs";
  } else if (kind == "overlay") {
    good =
        run(fmt::format("cd {} && mkdir -p lower/files upper work && echo below >lower/files/from_below && "
                        "mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work ground",
                        scratch));
    if (!good) lacks = "needs overlay: a mount of it";
  } else if (kind != "here") {
    good = mount_image(kind, scratch, lacks);
  }
  if (!good) return nullptr;
  ::mkdir(ground->directory().c_str(), 0755);
  return ground;
}

Ground::~Ground() {
  ::umount2(root().c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove_all(scratch_, ignored);
}

}  // namespace relive::testing
