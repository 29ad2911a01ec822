// Pages of an image: which there are, and where in which file each lies. Nothing of them is read until it is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/page_range.h"
#include "base/result.h"
#include "image/entries.h"
#include "image/source.h"

namespace relive::image {

// Pages that follow each other, in memory and in a file. A page that no run names is what its mapping's backing gives:
// zeros, or the file.
struct PageRun {
  static constexpr std::uint32_t kZeros = ~std::uint32_t{0};
  std::uint64_t address = 0;  // of shared objects: bytes into the object
  std::uint64_t pages = 0;
  std::uint32_t file = kZeros;  // index into PageFiles; kZeros: pages of zeros, in no file
  std::uint64_t offset = 0;     // bytes into it
  [[nodiscard]] AddressRange range() const { return {address, address + pages * kPageSize}; }
  bool operator==(const PageRun&) const = default;
};
using PageRuns = std::vector<PageRun>;  // ascending, disjoint, none empty, none ends beyond 2^63

// The files of pages that were opened, this image's own and those of its parents.
class PageFiles {
 public:
  std::uint32_t add(std::unique_ptr<ImageFile> file);
  [[nodiscard]] std::uint64_t size(std::uint32_t file) const { return files_[file]->size(); }
  // Fills `into` with what lies at `offset`. REQUIRES: it lies inside the file.
  [[nodiscard]] Result<void> read_bytes(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const;
  // Fills `into` with pages of `run` from its page `first` on. REQUIRES: whole pages, inside the run.
  [[nodiscard]] Result<void> read(const PageRun& run, std::uint64_t first, std::span<std::byte> into) const;

 private:
  std::vector<std::unique_ptr<ImageFile>> files_;
};

// Reads a pagemap and, where it says so, those of the parents. Runs that are marked as pages of the parent come back as
// what the parent has. `kind` is pagemap or shared_pagemap. What is not whole is a finding, and left out.
PageRuns read_pages(const ImageSource& source, FileKind kind, std::uint64_t number, PageFiles& files,
                    Findings& findings, Budget& budget);

// What `runs` say about [range), ascending.
PageRuns within(std::span<const PageRun> runs, AddressRange range);
std::uint64_t count_pages(std::span<const PageRun> runs);

}  // namespace relive::image
