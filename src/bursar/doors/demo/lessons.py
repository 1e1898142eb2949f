"""What students ask the Python tutor: topics, the words in which they are asked, a right and a wrong answer to each.

The topics of the first units are asked about most, as in any course.
"""

import msgspec


class Topic(msgspec.Struct, frozen=True):
    """One thing to ask: in five wordings, and the line of Python that tells a right answer from a wrong one."""

    right: str
    wrong: str
    asked: tuple[str, ...]


AND_THEN = "And can you show me a second example of {topic}, with other values?"
"""A question that leans on the answer before it."""

TOPICS: dict[str, Topic] = {
    "reversing a list": Topic("prices[::-1]", "prices.reverse[0]", (
        "How do I reverse a list?",
        "What is the way to turn a list around so the last item comes first?",
        "I have a list and need its elements in opposite order, how?",
        "python list backwards how",
        "Is there a short way to get a list in reverse?",
    )),
    "sorting a dictionary by value": Topic("sorted(stock.items(), key=lambda pair: pair[1])", "stock.sort(by=value)", (
        "How can I sort a dictionary by its values?",
        "I want the entries of a dict ordered by value, not by key. How?",
        "sort dict by value python",
        "What do I write to list a dictionary's items from the smallest value to the largest?",
        "Can a dictionary be put in order of its values?",
    )),
    "reading a file line by line": Topic("with open('towns.txt') as file:", "file = read('towns.txt').lines", (
        "How do I read a file line by line?",
        "What is the right way to go through the lines of a text file?",
        "I need to loop over every line in a file, what is the code?",
        "read text file one line at a time",
        "How to open a file and handle each row by itself?",
    )),
    "removing duplicates from a list": Topic("list(dict.fromkeys(towns))", "towns.unique()", (
        "How do I remove duplicates from a list but keep the order?",
        "My list has the same value several times. How do I keep each only once, in order?",
        "drop repeated elements of a list without changing order",
        "What is the simplest way to make the items in a list unique and leave them in place?",
        "Can I get rid of doubles in a list without sorting it?",
    )),
    "== and is": Topic("first == second", "first is second", (
        "What is the difference between == and is?",
        "When should I use is instead of ==?",
        "Why does comparing two equal lists with is give False?",
        "== vs is in python",
        "Are is and == the same thing?",
    )),
    "mutable default arguments": Topic("def add(town, towns=None):", "def add(town, towns=[]):", (
        "Why does my function remember the list from the last call?",
        "What is wrong with using [] as a default for a parameter?",
        "My default list keeps growing every time I call the function, why?",
        "mutable default argument problem",
        "Why should a parameter's default not be an empty list?",
    )),
    "list comprehensions": Topic("[price * 2 for price in prices]", "[for price in prices: price * 2]", (
        "What is a list comprehension?",
        "How do I write a loop that makes a list in one line?",
        "Can you explain the syntax [x for x in y]?",
        "build a list from another list in one expression",
        "How do comprehensions work for lists?",
    )),
    "catching an exception": Topic("except ValueError:", "catch ValueError:", (
        "How do I catch an error when int() gets text?",
        "What is the way to handle a ValueError when the user types letters?",
        "My program crashes when input is not a number, how can I handle this?",
        "try except for converting input to int",
        "How do I keep the program running when a conversion fails?",
    )),
    "formatting with f-strings": Topic("print(f'{price:.2f}')", "print('{price}'.2f)", (
        "How do I print a number with two decimals?",
        "What do I write to show a price with exactly two digits after the point?",
        "f-string two decimal places",
        "How can I round a number to 2 places when printing it?",
        "Show me how to format a float to cents.",
    )),
    "looping with an index": Topic("for index, town in enumerate(towns):", "for index in towns.index():", (
        "How do I get the index while looping over a list?",
        "I need both position and value in a for loop, how?",
        "loop with counter python list",
        "What is the proper way to number the items in a loop?",
        "How can a for loop tell me at which position I am?",
    )),
    "splitting a string": Topic("line.split(',')", "split(line, by=',')", (
        "How do I split a string at commas?",
        "I have text with commas and want a list of its pieces. How?",
        "separate a string by comma into list",
        "What cuts a string into parts at a certain character?",
        "How can I break up a line like a,b,c?",
    )),
    "joining strings": Topic("', '.join(towns)", "towns.join(', ')", (
        "How do I join a list of strings with commas?",
        "What is the opposite of split?",
        "make one string from a list of strings",
        "I have a list of words and want one text with commas between them, how?",
        "How can I glue strings in a list together?",
    )),
    "copying a list": Topic("copy = prices.copy()", "copy = prices", (
        "Why does changing the copy also change my first list?",
        "How do I make a real copy of a list?",
        "b = a and then both lists change, why?",
        "copy list so that original stays the same",
        "I assigned a list to another name and now they change together. What do I do?",
    )),
    "counting how often things occur": Topic("counts[word] = counts.get(word, 0) + 1", "counts.add(word)", (
        "How do I count how often each word occurs?",
        "I want a dictionary with the number of times every item appears. How?",
        "count occurrences of elements in list using dict",
        "What is the way to tally words with a dictionary?",
        "How can I find the frequency of each value in a list?",
    )),
    "missing keys of a dictionary": Topic("stock.get('apples', 0)", "stock['apples' or 0]", (
        "How do I avoid a KeyError when a key is missing?",
        "What can I write so that a dictionary gives 0 when the key is not there?",
        "dict default value when key not found",
        "My program stops with KeyError, how do I read a key that may be missing?",
        "Is there a safe way to look up a key in a dictionary?",
    )),
    "integer division": Topic("minutes // 60", "minutes / 60", (
        "How do I divide and get a whole number?",
        "Why does 7 / 2 give 3.5 and how do I get 3?",
        "whole number division python",
        "What is the operator for division without decimals?",
        "How can I find out how many full hours are in a number of minutes?",
    )),
    "slicing a string": Topic("name[:3]", "name[1:3]", (
        "How do I get the first three characters of a string?",
        "What gives me the beginning of a text, say three letters?",
        "first 3 letters of string",
        "How can I cut a string after its third character?",
        "How does slicing work to take the start of a word?",
    )),
    "while loops that never end": Topic("count = count + 1", "while count = 10:", (
        "Why does my while loop never stop?",
        "My while loop runs forever, what did I forget?",
        "infinite while loop how to fix",
        "How do I make a while loop end?",
        "The program hangs in a while loop. What is the usual reason?",
    )),
    "returning and printing": Topic("return total", "print(total) as return", (
        "What is the difference between return and print?",
        "Why does my function give None although it prints the result?",
        "return vs print in a function",
        "When do I use return instead of print?",
        "My function shows the number but I cannot use it afterwards. Why?",
    )),
    "sets": Topic("first & second", "first + second", (
        "How do I find what two sets have in common?",
        "Which operator gives the elements that are in both sets?",
        "intersection of two sets python",
        "I have two sets of names and want those in both. How?",
        "How do I get the overlap of two sets?",
    )),
    "writing a class": Topic("def __init__(self, name):", "def init(name):", (
        "How do I write a class with a name and an age?",
        "What does a simple class in Python look like?",
        "make a class with constructor python",
        "How do I give a new object its first values?",
        "What is __init__ for and how do I write it?",
    )),
    "checking membership": Topic("if town in towns:", "if towns.contains(town):", (
        "How do I check whether an item is in a list?",
        "What is the way to ask if a list contains a value?",
        "list contains element python",
        "How can I test that something is in my list?",
        "Is there a short way to see if a value occurs in a list?",
    )),
    "swapping two values": Topic("left, right = right, left", "left = right; right = left", (
        "How do I swap two variables?",
        "What is the way to exchange the values of a and b?",
        "swap two values without third variable",
        "Can two names trade their values in one line?",
        "I want a to have b's value and b to have a's. How?",
    )),
    "random numbers": Topic("random.randint(1, 6)", "random(1..6)", (
        "How do I get a random number between 1 and 6?",
        "What do I write to roll a die?",
        "random integer in a range python",
        "How can my program choose a number by chance?",
        "I need a dice throw in my game. How?",
    )),
}  # fmt: skip
