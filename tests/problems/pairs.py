"""Hand-picked pairs (answer, gold, is it correct?), by what is asked of a math verifier.

Many are what users reported against math verifiers: MV is huggingface/Math-Verify, LM is
EleutherAI/lm-evaluation-harness, R1 is huggingface/open-r1; the number is the issue's or pull request's. The
verdict is ours, by hand: what a person who marks the paper would say.
"""

from __future__ import annotations

YES, NO = True, False

PAIRS: dict[str, list[tuple[str, str, bool]]] = {
    "lists of large numbers, mixed numbers, money": [
        ("200, 100", "100, 200", YES),
        ("2100", "2, 100", NO),
        ("10, 200", "10200", NO),
        ("10,200", "10200", YES),
        ("5 1/2", "11/2", YES),
        ("-5 1/2", "-11/2", YES),
        ("5 1/2", "51/2", NO),
        ("5 dollars", r"\$5", YES),
        (r"\$5", "500 cents", YES),
        (r"\$5", "6 dollars", NO),
    ],
    "integers": [
        ("5", "5", YES),
        ("-5", "5", NO),
        ("+5", "5", YES),
        ("004", "4", YES),  # MV 44
        ("4.0", "4", YES),
        ("5.", "5", YES),
        ("73", "37", NO),
        (r"\text{13}", "13", YES),  # MV 37
        ("12345678901234567891", "12345678901234567890", NO),  # equal as floats
        (r"\$18", "18", YES),
        ("$7$", "7", YES),
        (r"\(7\)", "7", YES),
        ("**73**", "73", YES),  # MV 76
        (r"\mathbf{7}", "7", YES),
        (r"4\sqrt(2)", "4", NO),  # MV 41
        (r"4\sqrt{2}", "4", NO),
        ("2^{10}", "1024", YES),
        ("5!", "120", YES),
        (r"\binom{5}{2}", "10", YES),
        (r"\boxed{7}", "7", YES),
        ("1 2", "12", NO),
    ],
    "thousands": [
        ("10,000", "10000", YES),
        ("10{,}000", "10000", YES),
        (r"10,\!000", "10000", YES),
        (r"10\,000", "10000", YES),
        ("10 000", "10000", YES),
        ("1,000,000", "10^6", YES),
        ("12,345.67", "12345.67", YES),
        ("10,000", "1000", NO),
        ("10,00", "1000", NO),
        (r"\$1,250", "1250", YES),
    ],
    "fractions": [
        ("1/2", r"\frac12", YES),
        (r"\dfrac{1}{2}", r"\frac{1}{2}", YES),
        (r"\tfrac12", r"\frac{1}{2}", YES),
        (r"\cfrac{1}{2}", r"\frac{1}{2}", YES),
        ("2/3", r"\frac{2}{3}", YES),  # MV 1
        (r"\frac{2}{4}", r"\frac{1}{2}", YES),
        (r"\frac{-1}{2}", r"-\frac{1}{2}", YES),
        (r"\frac{1}{-2}", r"-\frac{1}{2}", YES),
        (r"-\frac{1}{2}", r"\frac{1}{2}", NO),
        (r"1\frac{1}{2}", "1.5", YES),
        (r"1\frac{1}{2}", r"\frac{3}{2}", YES),
        (r"-1\frac{1}{2}", r"-\frac{3}{2}", YES),
        (r"1\frac{1}{2}", r"\frac{1}{2}", NO),
        (r"\frac{64}{400}", r"\frac{63}{400}", NO),  # R1 566
        (r"\frac{9}{7}", r"\dfrac{9}{7}", YES),  # MV 70
        (r"{\frac{1}{2}}", r"\frac{1}{2}", YES),
        (r"\frac{1}{2}", r"\frac{2}{1}", NO),
        ("3/4", r"\frac{4}{3}", NO),
    ],
    "decimals": [
        ("0.5", r"\frac{1}{2}", YES),
        (".5", "0.5", YES),
        ("0.50", "0.5", YES),
        ("0.0833333333333333", r"\frac{1}{12}", YES),  # MV 2
        ("0.333333", r"\frac{1}{3}", YES),
        ("0.083333", r"\frac{1}{12}", YES),
        ("0.33", r"\frac{1}{3}", NO),
        (r"\frac{100}{3}", "33.3", NO),  # MV 2
        ("1.414214", r"\sqrt{2}", YES),
        ("3.14", r"\pi", NO),
        ("0.1", "0.10000", YES),
        ("0.1", "0.01", NO),
        ("1e3", "1000", YES),
        ("2.5", "-2.5", NO),
    ],
    "very small and very large": [
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}", NO),  # MV 14
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", NO),  # MV 14
        (r"\frac{1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", NO),  # MV 14
        ("0.0000001", "0.0000002", NO),
        ("0.0000001", "0", NO),
        (r"10^{-7}", "0.0000001", YES),
        (r"1.5 \times 10^{-8}", r"1.5 \times 10^{-9}", NO),
        (r"3 \times 10^8", "300000000", YES),
        (r"3 \cdot 10^{8}", r"3 \times 10^8", YES),
        ("2^{100}", "2^{100}+1", NO),
        ("2^{100}", "1267650600228229401496703205376", YES),
    ],
    "percent": [
        (r"50\%", "50", YES),
        (r"50\%", "0.5", YES),
        ("50%", r"50\%", YES),
        ("50", r"50\%", YES),
        ("0.5", r"50\%", YES),
        (r"12.5\%", "12.5", YES),
        ("12.5", r"12.5\%", YES),
        (r"7.41\%", r"7.41\%", YES),  # MV 50
        ("50 percent", r"50\%", YES),
        (r"50\text{ percent}", r"50\%", YES),
        (r"5\%", r"50\%", NO),
        (r"0.5\%", "50", NO),
        (r"33\frac{1}{3}\%", r"33\frac{1}{3}", YES),
    ],
    "units": [
        (r"5\text{ cm}", "5", YES),
        ("5 cm", "5", YES),
        ("5", r"5\text{ cm}", YES),
        (r"5\text{ cm}", r"5\ \mathrm{cm}", YES),
        (r"5\text{ cm}", r"5\text{ m}", NO),
        (r"500\text{ cm}", r"5\text{ m}", YES),
        (r"5\text{ cm}", r"5\text{ centimeters}", YES),
        (r"12\text{ cm}^2", "12", YES),
        (r"12\text{ square inches}", r"12\text{ in}^2", YES),
        (r"12\text{ cm}^2", r"12\text{ cm}^3", NO),
        (r"60\text{ minutes}", r"1\text{ hour}", YES),
        (r"60\text{ seconds}", r"1\text{ hour}", NO),
        ("5 dollars", r"500\text{ cents}", YES),
        (r"75\text{ miles per hour}", "75", YES),
        (r"90^\circ", "90", YES),
        (r"90^{\circ}", r"90\text{ degrees}", YES),
        (r"90^\circ", "45", NO),
        (r"\text{5 apples}", "5", YES),
        (r"180 \text{ (days)}", "180", YES),  # R1 628
        (r"\frac{3}{2}\text{ hours}", "1.5", YES),
    ],
    "numerals with a base": [
        ("2516_8", "2516_{8}", YES),
        ("2516", "2516_8", YES),  # LM 3785: the question has named the base
        ("2516_9", "2516_8", NO),
        ("110_2", "110", NO),
        ("110_2", "6", YES),
        ("6", "110_2", NO),  # "write 6 in base 2"
        ("6_{10}", "110_2", NO),
        ("2A_{16}", "2A_{16}", YES),
        ("1358", "2516_8", NO),
    ],
    "algebra": [
        ("(x+1)^2", "x^2+2x+1", YES),
        ("11 + 9a", "9a+11", YES),  # LM 3655
        (r"\frac{x}{7}+\frac{2}{7}", r"\frac{x+2}{7}", YES),  # MV 2
        (r"\sec^2(y)", r"\tan^2(y)+1", YES),  # MV 2
        (r"\sqrt{\frac{1}{n}}", r"\frac{1}{\sqrt{n}}", YES),  # MV 64
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", YES),
        (r"2\sqrt{3}", r"\sqrt{12}", YES),
        (r"1 + \frac{1}{\mathrm{e}}", r"1 - \frac{1}{\mathrm{e}}", NO),  # MV 14
        (r"\ln 4", r"2 \ln 2", YES),
        (r"x^{2}y", "x^2 y", YES),
        ("x^2", "x^3", NO),
        ("a+b", "a-b", NO),
        ("hlw", "lwh", YES),
        (r"6\pi", r"6 \cdot \pi", YES),
        (r"\frac{\pi}{6}", r"\frac{\pi}{3}", NO),
        (r"\sqrt 2", r"\sqrt{2}", YES),
        (r"\sqrt2+\sqrt3", r"\sqrt{3}+\sqrt{2}", YES),
        (r"-(x-1)", "1-x", YES),
        ("x(x+2)", "x^2+2", NO),
        ("3m", "2m+m", YES),  # no metres
        ("12t", "12s", NO),
        ("3t", "3", NO),
        (r"\sqrt{x^2}", "x", NO),
        ("|x|", "x", NO),
        ("n(n+1)/2", r"\frac{n(n+1)}{2}", YES),
    ],
    "complex numbers": [
        ("3+4i", "4i+3", YES),
        ("6+5i", "6-5i", NO),
        (r"\frac{1+i}{2}", r"\frac12 + \frac12 i", YES),
        ("i^2", "-1", YES),
    ],
    "equations and names": [
        ("x=5", "5", YES),
        ("5", "x=5", YES),
        ("x = 5", "x=5", YES),
        ("y=5", "x=5", NO),
        (r"x = \frac{10}{2} = 5", "5", YES),
        ("n=1, 2, 3", "n=2, 3, 4", NO),  # MV 14
        ("D = (0, 1.5)", "D = (0, 1)", NO),  # MV 14
        ("y = -\\frac{1}{2}x + \\frac{3}{4}", "2x+4y-3=0", YES),  # MV 26
        ("3x + 4y + 14=0", "3x-1y+13=0", NO),  # MV 60
        ("-34x-45y+20z-100=0", "34x+45y-20z+100=0", YES),  # MV 2
        ("y=2x+1", "y = 1+2x", YES),
        ("y=2x+1", "2x+1", YES),
        ("f(x)=x^2", "x^2", YES),
        (r"x \approx 5", "5", YES),
    ],
    "lists and sets": [
        (r"\{2, 1\}", r"\{1,2\}", YES),
        ("2,1", "1,2", YES),  # LM 3785
        ("1, -2", "-2,1", YES),
        (r"1 \text{ and } 2", "1,2", YES),
        (r"1 \text{ or } 2", "1,2", YES),
        ("5", "5,6", NO),
        ("5,6", "5", NO),
        ("21, 36, and 82", r"19, 46, \text{ and } 82", NO),  # MV 14
        ("1,2,3", "1,2,4", NO),
        ("x=1, x=2", "1,2", YES),
        ("x=1 \\text{ or } x=2", "x=2, x=1", YES),
        (r"\{1,2,3\}", "1,2,3", YES),
        (r"\pm 2021", "2021", NO),  # MV 14
        ("2021", r"\pm 2021", NO),
        (r"\pm 2", "2, -2", YES),
        ("-2,2", r"\pm 2", YES),
        (r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}", YES),
        (r"\pm 1, \pm 2", "-2,-1,1,2", YES),
        (r"1, 3, 5, \ldots, 2n-1", r"1, 2, \ldots, n", NO),  # MV 14
        (r"1,2,\ldots,n", r"1, 2, \ldots, n", YES),
        (r"\emptyset", r"\varnothing", YES),
        (r"\{1, 2, 2\}", r"\{1,2\}", YES),
        ("x=3,y=2", "x=2,y=3", NO),
        ("(2,3)", "x=2,y=3", YES),
    ],
    "tuples, intervals, matrices": [
        ("(2,1)", "(1,2)", NO),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})", YES),
        (r"(3, \frac{2\pi}{3})", r"\left( 3, \frac{\pi}{2} \right)", NO),  # MV 56
        ("(1,4.5)", r"(1,\frac{9}{2})", YES),  # MV 2
        ("[1,2]", "(1,2)", NO),
        ("[1,2)", "(1,2]", NO),
        (r"(-\infty,2)\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)", YES),
        (r"(3,\infty)\cup(-\infty,2)", r"(-\infty, 2) \cup (3, \infty)", YES),
        ("x<3", r"(-\infty, 3)", YES),  # MV 71
        (r"(-\infty, 3)", "x<3", YES),  # MV 71
        (r"x \geq \sqrt{2}", r"x \in [\sqrt{2}, +\infty)", YES),  # MV 25
        ("0 < x < 12.5", "(0, 12.5)", YES),  # MV 10
        ("0 < x < 12", "(0, 12.5)", NO),
        (r"x \in (0,1)", "(0,1)", YES),
        ("3 > x", "x<3", YES),
        (r"x \le 3", "x<3", NO),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", YES),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", YES),
        (r"\begin{pmatrix}2\\1\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", NO),
        (r"\begin{pmatrix}0.5&0\\0&1\end{pmatrix}", r"\begin{pmatrix}\frac12&0\\0&1\end{pmatrix}", YES),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", NO),
        ("(1,2),(3,4)", "(3,4),(1,2)", YES),
    ],
    "words, letters, times": [
        ("Evelyn", r"\text{Evelyn}", YES),
        ("evelyn", "Evelyn", YES),
        ("Eve", r"\text{Evelyn}", NO),
        (r"\text{odd}", r"\text{even}", NO),
        ("seat", "east", NO),
        ("No", r"\text{on}", NO),
        (r"\text{Yes}", "yes", YES),
        (r"\text{No}", r"\text{Yes}", NO),
        ("C", r"\text{(C)}", YES),
        ("(C)", "C", YES),
        (r"\textbf{(C)}\ 12", "C", YES),
        ("B", "C", NO),
        ("c", "C", YES),
        ("12", "B", NO),
        (r"\text{five}", "5", NO),
        ("(B)", r"\text{(C)}", NO),
        ("1:00", "12:00", NO),  # MV 14
        ("3:30", r"3\!:\!30", YES),
        (r"1:4:9:\ldots", r"1:2:3:\ldots", NO),  # MV 14
        (r"\text{Monday}", r"\text{Tuesday}", NO),
        (r"\text{a line}", r"\text{line}", NO),
        (r"\infty", r"\text{infinity}", YES),
        ("]] ((", "]]((", YES),  # a gold answer that cannot be read is compared as text
        ("7", "]]((", NO),
    ],
}
