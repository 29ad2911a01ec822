#include "lib/program.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include "lib/relive.h"

namespace relive::lib {

namespace {

constexpr std::string_view kAdvice = "name the program relive of this release in RELIVE_PROGRAM";

bool can_run(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

// bin/relive of the prefix this library lies in: PREFIX/lib or PREFIX/lib/ARCHITECTURE.
std::vector<std::string> beside_the_library() {
  Dl_info found{};
  if (::dladdr(reinterpret_cast<const void*>(&relive_version), &found) == 0 || found.dli_fname == nullptr) return {};
  std::error_code error;
  const auto library = std::filesystem::canonical(found.dli_fname, error);
  if (error) return {};
  const auto directory = library.parent_path();
  return {(directory.parent_path() / "bin/relive").string(),
          (directory.parent_path().parent_path() / "bin/relive").string()};
}

std::vector<std::string> along_path() {
  const char* const path = std::getenv("PATH");
  std::vector<std::string> found;
  std::string_view rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const std::string_view directory = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(directory.size() + 1, rest.size()));
    if (directory.starts_with('/')) found.push_back(fmt::format("{}/relive", directory));
  }
  return found;
}

}  // namespace

Result<std::string> find_program() {
  if (const char* const named = std::getenv("RELIVE_PROGRAM"); named != nullptr && *named != '\0') {
    if (can_run(named)) return named;
    return fail(ErrorKind::not_found, fmt::format("RELIVE_PROGRAM names {}, which cannot be executed", named),
                std::string(kAdvice));
  }
  auto candidates = beside_the_library();
  std::string looked;
  for (const std::string& path : candidates) looked += path + ", ";
  for (std::string& path : along_path()) candidates.push_back(std::move(path));
  for (const std::string& path : candidates)
    if (can_run(path)) return path;
  return fail(ErrorKind::not_found, fmt::format("the program relive is not at {}nor in PATH", looked),
              std::string(kAdvice));
}

}  // namespace relive::lib
