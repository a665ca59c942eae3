// One look at every parameter and gradient of a plan, through the C interface that PyTorch keeps for compiled models.
//
// A gradient that autograd made has no Python object until somebody asks for it; looked at from here it never gets one. No torch
// headers: the functions come as addresses (`survey.py` finds them, and tries them out before it trusts them), and a tensor is what
// it is in every release: a pointer to its implementation. A reference to one is the address of that pointer, here the place in
// the Python object that holds it: `torch.utils.swap_tensors` puts another implementation there, and the old one may be gone.
//
// After a backward pass all this lies in memory that no cache knows, a dozen lines per tensor. Each pass over tensors is a
// pipeline: while one tensor is looked at, what the next ones will need is on its way, in the order in which it is found.

#include <stdint.h>
#include <string.h>

#include <vector>

namespace {

using Implementation = void*;
using Tensor = const Implementation*;  // what C++ calls `const at::Tensor&` and the C interface a handle
using Status = int32_t;                // not 0: an exception was caught

// The order of `survey.py`.
struct Torch {
    Tensor (*gradient)(Implementation);
    bool (*has_storage)(Implementation);
    void (*bump_version)(Tensor);
    Implementation undefined;
    Status (*data)(Tensor, void**);
    Status (*dim)(Tensor, int64_t*);
    Status (*sizes)(Tensor, const int64_t**);
    Status (*strides)(Tensor, const int64_t**);
    Status (*dtype)(Tensor, int32_t*);
    Status (*device_type)(Tensor, int32_t*);
    Status (*device_index)(Tensor, int32_t*);
    Status (*assign)(Tensor, Implementation*);
};

// Tensors between two stages of a pipeline: enough to hide the way to the memory, and few enough that what was fetched is still
// in the first cache when it is used. 4 to 12 are equally good.
constexpr int64_t AHEAD = 6;

// Takes 0 to `count` - 1 through all stages, each `AHEAD` behind the one before; stops at once where a stage returns false.
template <class... Stage>
bool pipeline(int64_t count, Stage... stage) {
    constexpr int64_t last = sizeof...(Stage) - 1;
    for (int64_t first = 0; first < count + last * AHEAD; ++first) {
        int64_t i = first + AHEAD;
        if (!((i -= AHEAD, i < 0 || i >= count || stage(i)) && ...)) return false;
    }
    return true;
}

// Everything below that fetches returns true, to be one of many conditions of a stage. Where fields have been so far is only
// fetched: being wrong costs time, nothing else.
bool fetch(const void* address) {
    __builtin_prefetch(address);
    return true;
}

// The lines with these bytes, and those between them. Objects begin anywhere in a line.
bool fetch(const void* object, int first, int last) {
    const char* const at = static_cast<const char*>(object);
    for (int offset = first; offset < last; offset += 64) fetch(at + offset);
    return fetch(at + last);
}

enum Owned { STORAGE = 2, AUTOGRAD = 3, VERSION = 5 };  // the pointer's number in an implementation

// An implementation has its references at 8, what it owns, from 56 on its shape, and from 144 on everything else.
constexpr int REFERENCES = 8, REST = 144, END = 175;
bool fetch_all(Implementation implementation) { return fetch(implementation, 0, END); }
bool fetch_but_shape(Implementation implementation) {
    return fetch(implementation, 0, 8 * STORAGE) && fetch(implementation, REST, END);
}
const void* owned(Implementation implementation, Owned what) { return static_cast<void* const*>(implementation)[what]; }
bool fetch_storage(Implementation implementation) { return fetch(owned(implementation, STORAGE), 16, 59); }
bool fetch_autograd(Implementation implementation) { return fetch(owned(implementation, AUTOGRAD), 0, 40); }
bool fetch_version(Implementation implementation) { return fetch(owned(implementation, VERSION), 16, 16); }

bool same_numbers(const int64_t* some, const int64_t* others, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        if (some[i] != others[i]) return false;
    }
    return true;
}

// What a kernel must know of a tensor; `at` is its memory.
struct Form {
    int32_t dtype, device_type, device_index;
    int64_t dim;
    const int64_t *sizes, *strides;
    void* at;

    // What a tensor can change without moving to other memory.
    bool read_shape(const Torch& torch, Tensor tensor) {
        return !torch.dim(tensor, &dim) && !torch.sizes(tensor, &sizes) && !torch.strides(tensor, &strides) &&
               !torch.dtype(tensor, &dtype) && !torch.data(tensor, &at);
    }

    bool read(const Torch& torch, Tensor tensor) {
        if (!torch.has_storage(*tensor)) return false;  // sparse tensors have none; asking them for their memory is an exception
        return read_shape(torch, tensor) && !torch.device_type(tensor, &device_type) && !torch.device_index(tensor, &device_index);
    }

    bool same_device(const Form& form) const { return device_type == form.device_type && device_index == form.device_index; }

    bool same_shape(const Form& form) const { return dim == form.dim && same_numbers(sizes, form.sizes, dim); }

    // Whether place i of memory holds the same element. The stride of a dimension with one element says nothing.
    bool same_order(const Form& form) const {
        bool same = true;
        for (int64_t i = 0; i < dim; ++i) same &= sizes[i] == 1 || strides[i] == form.strides[i];
        return same;
    }

    // A stand-in for zeros, or what wraps other tensors, has no memory of its own.
    bool has_memory() const {
        if (at != nullptr) return true;
        bool empty = false;
        for (int64_t i = 0; i < dim; ++i) empty |= sizes[i] == 0;
        return empty;
    }
};

constexpr int32_t NONE = -1;

struct Member {
    Tensor parameter;
    Implementation implementation;
    Form form;  // sizes and strides in `shapes` of the survey
    int32_t gradient_dtype;  // NONE: a gradient would be the first

    // Whether the parameter is as it was.
    bool stays(const Torch& torch) const {
        Form now;
        return now.read_shape(torch, parameter) && now.at == form.at && now.dtype == form.dtype && now.same_shape(form) &&
               same_numbers(now.strides, form.strides, form.dim);
    }

    bool accepts(const Torch& torch, Tensor gradient, Form& found) const {
        return found.read(torch, gradient) && found.dtype == gradient_dtype && found.same_device(form) && found.same_shape(form) &&
               found.same_order(form) && found.has_memory();
    }
};

// A state: its kernels know its memory.
struct Resident {
    Tensor tensor;
    Implementation implementation;
    void* at;
};

struct Survey {
    Torch torch;
    std::vector<Member> members;
    std::vector<Resident> residents;
    std::vector<int64_t> shapes;
    std::vector<Tensor> gradients;    // per member, of the present look
    std::vector<Implementation> held;  // tensors of our own: the first `holds` are references to gradients, the others undefined
    int64_t holds = 0;

    // Adds the present state of a parameter; false where it is not as kernels need it. `expected`: a gradient may come, of the
    // parameter's dtype if there is none now.
    bool add(Tensor parameter, bool expected) {
        Form form, gradient_form;
        if (!form.read(torch, parameter) || !form.has_memory()) return false;
        const Tensor gradient = torch.gradient(*parameter);
        Member member{parameter, *parameter, form, expected ? form.dtype : NONE};
        if (*gradient != torch.undefined &&
            (!expected || torch.dtype(gradient, &member.gradient_dtype) || !member.accepts(torch, gradient, gradient_form))) {
            return false;
        }
        shapes.insert(shapes.end(), form.sizes, form.sizes + form.dim);
        shapes.insert(shapes.end(), form.strides, form.strides + form.dim);
        members.push_back(member);
        return true;
    }

    // Points all members to the copies of their shapes, which no longer move.
    void settle() {
        const int64_t* next = shapes.data();
        for (Member& member : members) {
            member.form.sizes = next;
            member.form.strides = next + member.form.dim;
            next += 2 * member.form.dim;
        }
        gradients.resize(members.size());
        held.resize(members.size(), torch.undefined);
    }

    // Whether nothing changed but which members have a gradient, where, and its values.
    bool look(uint8_t* present, void** addresses) {
        const Member* const m = members.data();
        Tensor* const gradient = gradients.data();
        return pipeline(
            members.size(),
            [=](int64_t i) { return fetch(m[i].parameter) && fetch_all(m[i].implementation); },
            [=](int64_t i) {
                return *m[i].parameter == m[i].implementation && fetch_storage(m[i].implementation) &&
                       fetch_autograd(m[i].implementation);
            },
            [=](int64_t i) {
                gradient[i] = torch.gradient(m[i].implementation);
                present[i] = *gradient[i] != torch.undefined;
                return !present[i] || (m[i].gradient_dtype != NONE && fetch_all(*gradient[i]));
            },
            [=](int64_t i) { return !present[i] || fetch_storage(*gradient[i]); },
            [=, &addresses](int64_t i) {
                if (!m[i].stays(torch)) return false;
                if (!present[i]) return true;
                Form form;
                if (!m[i].accepts(torch, gradient[i], form) || !hold(gradient[i])) return false;
                *addresses++ = form.at;
                return true;
            });
    }

    // Whether all residents are where they were.
    bool stay() const {
        const Resident* const r = residents.data();
        return pipeline(
            residents.size(), [=](int64_t i) { return fetch(r[i].tensor) && fetch_but_shape(r[i].implementation); },
            [=](int64_t i) { return *r[i].tensor == r[i].implementation && fetch_storage(r[i].implementation); },
            [=](int64_t i) {
                void* at;
                return torch.has_storage(r[i].implementation) && !torch.data(r[i].tensor, &at) && at == r[i].at;
            });
    }

    bool hold(Tensor tensor) { return !torch.assign(tensor, &held[holds]) && ++holds; }

    void release() {
        Implementation* const h = held.data();
        pipeline(
            holds, [=](int64_t i) { return fetch(h[i], REFERENCES, REFERENCES); },
            [=](int64_t i) {
                torch.assign(&torch.undefined, &h[i]);
                return true;
            });
        holds = 0;
    }
};

// What CPython keeps of a list.
struct List {
    int64_t count;
    void** items;
};

}  // namespace

#define OPTC_EXPORT extern "C" __attribute__((visibility("default")))

OPTC_EXPORT const char optc_key[65];
const char optc_key[65] = OPTC_KEY;

// The parameters as they and their gradients are now; null where one is not as the kernels need it, or has an unexpected one.
OPTC_EXPORT Survey* optc_survey_new(
    const Torch* torch, const Tensor* parameters, const uint8_t* expected, int64_t count, const Tensor* residents,
    int64_t resident_count) try {
    auto* survey = new Survey{*torch, {}, {}, {}, {}, {}, 0};
    for (int64_t i = 0; i < resident_count; ++i) {
        void* at;
        if (torch->data(residents[i], &at)) {
            delete survey;
            return nullptr;
        }
        survey->residents.push_back({residents[i], *residents[i], at});
    }
    for (int64_t i = 0; i < count; ++i) {
        if (!survey->add(parameters[i], expected[i])) {
            delete survey;
            return nullptr;
        }
    }
    survey->settle();
    return survey;
} catch (...) {
    return nullptr;
}

// 1, and which members have a gradient, and in the same order the addresses of those, if nothing else changed since
// `optc_survey_new`; 0 otherwise. The gradients stay alive until they are released.
OPTC_EXPORT int32_t optc_survey_look(Survey* survey, uint8_t* present, void** addresses) try {
    survey->release();
    return survey->look(present, addresses) && survey->stay();
} catch (...) {
    return 0;
}

OPTC_EXPORT void optc_survey_release(Survey* survey) { survey->release(); }

OPTC_EXPORT void optc_survey_delete(Survey* survey) {
    survey->release();
    delete survey;
}

// Tells autograd that tensors were written to. 0 if one cannot be told.
OPTC_EXPORT int32_t optc_bump_versions(const Torch* torch, const Tensor* tensors, int64_t count) try {
    pipeline(
        count, [=](int64_t i) { return fetch(tensors[i]); },
        [=](int64_t i) { return fetch(*tensors[i], 8 * VERSION, END); },
        [=](int64_t i) { return fetch_version(*tensors[i]); },
        [=](int64_t i) {
            torch->bump_version(tensors[i]);
            return true;
        });
    return 1;
} catch (...) {
    return 0;
}

// Whether two lists hold the same objects.
OPTC_EXPORT int32_t optc_same_items(const List* one, const List* other) {
    return one->count == other->count && !memcmp(one->items, other->items, sizeof(void*) * one->count);
}
