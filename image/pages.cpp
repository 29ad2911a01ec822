#include "image/pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "image/proto/pagemap.pb.h"

namespace relive::image {

namespace {

constexpr std::uint64_t kEndOfAddresses = std::uint64_t{1} << 63;
constexpr std::size_t kParentsLimit = 256;

// PageRun.flags of a pagemap.
constexpr std::uint32_t kInParent = 1;
constexpr std::uint32_t kLazy = 2;
constexpr std::uint32_t kPresent = 4;

struct Entry {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint32_t flags = 0;
  std::uint64_t offset = 0;
  std::uint64_t index = 0;  // in the file of the pagemap, for findings
};

// One image's pagemap.
struct Layer {
  std::string name;
  std::vector<Entry> entries;
  std::uint32_t file = PageRun::kZeros;
};

class Reading {
 public:
  Reading(FileKind kind, std::uint64_t number, PageFiles& files, Findings& findings, Budget& budget)
      : kind_(kind), number_(number), files_(files), findings_(findings), budget_(budget) {}

  // Reads the layers from this image to its oldest parent that has pages for us.
  void read(const ImageSource& source) {
    std::set<std::string> seen{source.identity()};
    std::string prefix;
    if (!read_layer(source, prefix)) return;
    std::unique_ptr<ImageSource> above;
    const ImageSource* at = &source;
    while (needs_parent()) {
      auto parent = at->parent();
      if (!parent) return findings_.damaged(layers_.back().name, std::nullopt, parent.error().text());
      prefix += "parent/";
      if (*parent == nullptr)
        return findings_.damaged(layers_.back().name, std::nullopt,
                                 "says that pages are in a parent, and there is none");
      if (!seen.insert((*parent)->identity()).second)
        return findings_.damaged(layers_.back().name, std::nullopt, "the chain of parents comes back to itself");
      if (layers_.size() >= kParentsLimit)
        return findings_.damaged(layers_.back().name, std::nullopt,
                                 fmt::format("the chain of parents is longer than {}", kParentsLimit));
      above = std::move(*parent);
      at = above.get();
      if (!read_layer(*at, prefix)) return;
    }
  }

  PageRuns resolve() {
    if (layers_.empty()) return {};
    for (const Entry& entry : layers_.front().entries) resolve(0, entry, {entry.address, end_of(entry)});
    return std::move(runs_);
  }

 private:
  static std::uint64_t end_of(const Entry& entry) { return entry.address + entry.pages * kPageSize; }

  [[nodiscard]] bool needs_parent() const {
    return std::ranges::any_of(layers_.back().entries, [](const Entry& e) { return (e.flags & kInParent) != 0; });
  }

  // False: there is none here.
  bool read_layer(const ImageSource& source, const std::string& prefix) {
    EntryReader reader(source, kind_, number_, findings_, budget_);
    if (!reader.present()) return false;
    Layer layer;
    layer.name = prefix + reader.name();
    pb::PagemapHead head;
    if (!reader.next(head)) return false;
    pb::PageRun run;
    std::uint64_t bytes = 0;
    while (reader.next(run)) {
      Entry entry{.address = run.address(),
                  .pages = run.has_pages() ? run.pages() : run.old_pages(),
                  .flags = run.flags(),
                  .offset = bytes,
                  .index = reader.index()};
      if (run.in_parent())
        entry.flags |= kInParent;
      else if (!run.has_flags())
        entry.flags = kPresent;
      const std::uint64_t before = layer.entries.empty() ? 0 : end_of(layer.entries.back());
      if (entry.pages == 0) continue;
      if (entry.address % kPageSize != 0) {
        reader.damaged(fmt::format("address {:x} is no page's", entry.address));
        return false;
      }
      if (entry.address >= kEndOfAddresses || entry.pages > (kEndOfAddresses - entry.address) / kPageSize) {
        reader.damaged(
            fmt::format("{} pages from {:x} on reach beyond the addresses of a task", entry.pages, entry.address));
        return false;
      }
      if (entry.address < before) {
        reader.damaged(
            fmt::format("address {:x} lies before the end of the run before it, {:x}", entry.address, before));
        return false;
      }
      if ((entry.flags & ~(kInParent | kLazy | kPresent)) != 0)
        reader.unsupported(fmt::format("flags {:#x} are not known", entry.flags));
      if ((entry.flags & kPresent) != 0 && (entry.flags & kInParent) == 0) bytes += entry.pages * kPageSize;
      layer.entries.push_back(entry);
    }
    if (bytes != 0) {
      const std::string pages = file_name(FileKind::pages, head.pages_id());
      auto file = source.open(pages);
      if (!file) {
        findings_.damaged(prefix + pages, std::nullopt, file.error().text());
        return false;
      }
      const std::uint64_t size = (*file)->size();
      if (size < bytes) {
        findings_.damaged(prefix + pages, std::nullopt,
                          fmt::format("has {} bytes; {} says that there are {}", size, layer.name, bytes));
        return false;
      }
      layer.file = files_.add(std::move(*file));
    }
    layers_.push_back(std::move(layer));
    return true;
  }

  void add(PageRun run) {
    if (!runs_.empty()) {
      PageRun& last = runs_.back();
      const bool goes_on = last.range().end == run.address && last.file == run.file &&
                           (run.file == PageRun::kZeros || last.offset + last.pages * kPageSize == run.offset);
      if (goes_on) {
        last.pages += run.pages;
        return;
      }
    }
    runs_.push_back(run);
  }

  // The part `range` of an entry of layer `depth`. The depth is bounded by kParentsLimit.
  void resolve(std::size_t depth, const Entry& entry, AddressRange range) {
    const Layer& layer = layers_[depth];
    if ((entry.flags & kInParent) == 0) {
      if ((entry.flags & kPresent) != 0) {
        add({range.begin, range.pages(), layer.file, entry.offset + (range.begin - entry.address)});
      } else if ((entry.flags & kLazy) != 0) {
        findings_.damaged(
            layer.name, entry.index,
            fmt::format("{} pages from {:x} on were left for a server to send", range.pages(), range.begin));
      } else {
        add({range.begin, range.pages(), PageRun::kZeros, 0});
      }
      return;
    }
    const auto missing = [&](std::uint64_t begin, std::uint64_t end) {
      findings_.damaged(
          layer.name, entry.index,
          fmt::format("{} pages from {:x} on shall be in the parent, and are not", (end - begin) / kPageSize, begin));
    };
    if (depth + 1 >= layers_.size()) return missing(range.begin, range.end);
    const std::vector<Entry>& below = layers_[depth + 1].entries;
    auto at = std::ranges::upper_bound(below, range.begin, {}, [](const Entry& e) { return end_of(e); });
    std::uint64_t position = range.begin;
    while (position < range.end) {
      if (at == below.end() || at->address >= range.end) return missing(position, range.end);
      if (at->address > position) missing(position, at->address);
      const std::uint64_t begin = std::max(position, at->address);
      const std::uint64_t end = std::min(range.end, end_of(*at));
      resolve(depth + 1, *at, {begin, end});
      position = end;
      ++at;
    }
  }

  FileKind kind_;
  std::uint64_t number_;
  PageFiles& files_;
  Findings& findings_;
  Budget& budget_;
  std::vector<Layer> layers_;
  PageRuns runs_;
};

}  // namespace

std::uint32_t PageFiles::add(std::unique_ptr<ImageFile> file) {
  files_.push_back(std::move(file));
  return static_cast<std::uint32_t>(files_.size() - 1);
}

Result<void> PageFiles::read(const PageRun& run, std::uint64_t first, std::span<std::byte> into) const {
  if (run.file == PageRun::kZeros) {
    std::memset(into.data(), 0, into.size());
    return {};
  }
  return files_[run.file]->read(run.offset + first * kPageSize, into);
}

Result<void> PageFiles::read_bytes(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const {
  return files_[file]->read(offset, into);
}

PageRuns read_pages(const ImageSource& source, FileKind kind, std::uint64_t number, PageFiles& files,
                    Findings& findings, Budget& budget) {
  Reading reading(kind, number, files, findings, budget);
  reading.read(source);
  return reading.resolve();
}

PageRuns within(std::span<const PageRun> runs, AddressRange range) {
  PageRuns out;
  auto at = std::ranges::upper_bound(runs, range.begin, {}, [](const PageRun& run) { return run.range().end; });
  for (; at != runs.end() && at->address < range.end; ++at) {
    const AddressRange part = at->range().intersect(range);
    if (part.empty()) continue;
    const std::uint64_t offset = at->file == PageRun::kZeros ? 0 : at->offset + (part.begin - at->address);
    out.push_back({part.begin, part.pages(), at->file, offset});
  }
  return out;
}

std::uint64_t count_pages(std::span<const PageRun> runs) {
  std::uint64_t pages = 0;
  for (const PageRun& run : runs) pages += run.pages;
  return pages;
}

}  // namespace relive::image
