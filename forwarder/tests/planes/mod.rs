//! Each case once for each data plane: `on_data_planes! { [kernel Kernel, tcx Tcx] a_case, another_case, }`.

macro_rules! on_data_planes {
    (@each [$($name:ident $plane:ident),+] $cases:tt) => {
        $(mod $name {
            on_data_planes!(@on $plane $cases);
        })+
    };
    (@on $plane:ident { $($case:ident)* }) => {
        $(#[test] fn $case() { super::$case(super::lab::Plane::$plane); })*
    };
    ($planes:tt $($case:ident,)*) => {
        on_data_planes!(@each $planes { $($case)* });
    };
}
