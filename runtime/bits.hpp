// Signs as bits, eight to a byte (`codebook.py`), in kernels that keep codes: the first number is the lowest bit.

namespace optc {

typedef int32_t Octet __attribute__((vector_size(32)));
typedef int8_t OctetOfBytes __attribute__((vector_size(8)));
typedef math_t OctetOfNumbers __attribute__((vector_size(8 * sizeof(math_t))));

// -1 and 1.
OPTC_INLINE OctetOfNumbers signs_of(uint32_t octet) {
    const Octet bits = (Octet{} + int32_t(octet)) >> Octet{0, 1, 2, 3, 4, 5, 6, 7} & 1;
    return __builtin_convertvector(bits * 2 - 1, OctetOfNumbers);
}

// Which of eight numbers are above 0, the first in the lowest bit.
OPTC_INLINE uint32_t above_zero(const math_t* from) {
    OctetOfNumbers x;
    __builtin_memcpy(&x, from, sizeof x);
    const auto above = x > 0;
#ifdef __AVX2__
    if constexpr (!is_double) {
        typedef float EightFloats __attribute__((vector_size(32)));
        EightFloats mask;
        __builtin_memcpy(&mask, &above, sizeof mask);
        return uint32_t(__builtin_ia32_movmskps256(mask));
    }
#endif
    const OctetOfBytes ones = __builtin_convertvector(above, OctetOfBytes) & 1;
    uint64_t each;
    __builtin_memcpy(&each, &ones, sizeof each);
    return uint32_t(each * 0x0102040810204080u >> 56);  // bit 0 of byte k comes to bit 56 + k
}

}  // namespace optc
