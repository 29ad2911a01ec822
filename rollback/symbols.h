// Names for changed memory: which variables differ, whose stack a mapping is. For `relive diff`, never on the way back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "diff/difference.h"
#include "model/task.h"
#include "parasite/session.h"
#include "tracking/page_map.h"
#include "tracking/page_store.h"

namespace relive::rollback {

// Addresses, ascending, of the 8-byte words that a plan would change. Looks at kMostPagesCompared pages and no more,
// and passes over pages that cannot be read: only names depend on it.
inline constexpr std::uint64_t kMostPagesCompared = 2048;
std::vector<std::uint64_t> changed_words(parasite::Visit& visit, const tracking::PagePlan& plan,
                                         const tracking::PageStore& store, const model::Memory& memory);

// The symbol tables of the ELF files that a task has mapped, read when they are first asked for. A file that is gone,
// was replaced, or is no sound ELF file has no symbols; that is no error.
class Symbols {
 public:
  explicit Symbols(const model::Memory& memory);
  ~Symbols();
  // The variable, or the function, that covers an address.
  [[nodiscard]] std::optional<std::string> variable(std::uint64_t address);
  [[nodiscard]] std::optional<std::string> function(std::uint64_t address);

 private:
  struct Module;
  Module* module_of(std::uint64_t address);
  std::vector<std::unique_ptr<Module>> modules_;
};

// Adds to differences of Family::page (diff::describe_pages of the same memory) what they are: the variables with most
// changed words, or the thread whose stack it is and the function that it stands in.
void name_pages(std::vector<diff::Difference>& differences, const model::Task& wanted,
                const std::vector<std::uint64_t>& words);

}  // namespace relive::rollback
