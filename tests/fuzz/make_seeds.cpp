// usage: make_seeds DIR [IMAGE...]: writes the fuzzer's seeds: the sample task, alone and without relive's own files, a
// parent and a child, and the images named (without their pages).
#include <cstdio>

#include "unit/image_sample.h"

namespace {

void save(const std::string& path, const relive::sample::Files& files) {
  std::ofstream(path, std::ios::binary) << relive::sample::pack(files);
}

// A seed is small: no file of it has more than a few pages.
void shorten(relive::sample::Files& files) {
  for (auto& [name, bytes] : files)
    if (name.starts_with("pages-")) bytes.resize(std::min<std::size_t>(bytes.size(), 2 * relive::kPageSize));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const std::string directory = argv[1];
  const relive::sample::Files whole = relive::sample::files();
  save(directory + "/sample", whole);
  relive::sample::Files bare = whole;
  std::erase_if(bare, [](const auto& file) { return file.first.starts_with("relive-"); });
  save(directory + "/bare", bare);
  relive::sample::Files child = whole;
  for (const auto& [name, bytes] : whole)
    if (name.starts_with("page") || name == "inventory.img") child["parent/" + name] = bytes;
  save(directory + "/child", child);
  for (int i = 2; i < argc; ++i) {
    relive::sample::Files files = relive::sample::load(argv[i]);
    std::erase_if(files, [](const auto& file) { return !file.first.ends_with(".img"); });
    shorten(files);
    save(directory + "/image-" + std::to_string(i - 1), files);
  }
  return 0;
}
