// What the structures of relive.h point to: texts and lists that live as long as the report they hang on.
#pragma once

#include <deque>
#include <string>
#include <vector>

namespace relive::lib {

class Kept {
 public:
  Kept() = default;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  const char* text(std::string value) { return texts_.emplace_back(std::move(value)).c_str(); }

  // Texts as a list. `count` is set.
  const char* const* texts(const std::vector<std::string>& values, std::size_t& count) {
    std::vector<const void*> list;
    for (const std::string& value : values) list.push_back(text(value));
    return keep<const char>(std::move(list), count);
  }

  // Structures as a list of pointers to them (they may grow with a release), each made of a value by `make` and kept in
  // `structures`.
  template <class Structure, class Values, class Make>
  const Structure* const* list(std::deque<Structure>& structures, const Values& values, std::size_t& count,
                               const Make& make) {
    std::vector<const void*> list;
    for (const auto& value : values) list.push_back(&structures.emplace_back(make(value)));
    return keep<const Structure>(std::move(list), count);
  }

 private:
  template <class Element>
  Element* const* keep(std::vector<const void*> list, std::size_t& count) {
    count = list.size();
    return reinterpret_cast<Element* const*>(lists_.emplace_back(std::move(list)).data());
  }

  std::deque<std::string> texts_;
  std::deque<std::vector<const void*>> lists_;
};

}  // namespace relive::lib
