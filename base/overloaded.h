// One visitor for std::visit made of several lambdas. With no default among them the compiler names what is missing.
#pragma once

namespace relive {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};

}  // namespace relive
